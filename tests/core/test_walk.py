"""The search that counts finds what hnswlib's finds, on whole graphs and on such with dead nodes."""

import hnswlib
import numpy as np
import pytest

from samestyle.index.graph_file import GraphFile
from samestyle.index.walk import Walk

DIM = 16


@pytest.fixture(scope="module")
def graph():
    vectors = np.random.default_rng(0).standard_normal((1500, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = hnswlib.Index("ip", DIM)
    index.init_index(1500, 6, 100, 1)
    index.add_items(vectors, np.arange(1500)[::-1], num_threads=1)
    return index


@pytest.fixture(scope="module")
def queries():
    drawn = np.random.default_rng(1).standard_normal((60, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


class State:
    """An index as hnswlib's own pickling tells it: a truth that does not come from a file."""

    def __init__(self, index):
        state = index.__getstate__()[0]
        nodes, width = state["cur_element_count"], state["size_data_per_element"]
        level0 = state["data_level0"].view(np.uint8)[: nodes * width].reshape(nodes, width)
        self.vectors = np.ascontiguousarray(level0[:, state["offset_data"] : state["label_offset"]]).view(np.float32)
        self.labels = np.ascontiguousarray(level0[:, state["label_offset"] :]).view(np.int64).ravel()
        self.level0 = link_lists(level0[:, : state["offset_data"]])
        self.upper = list(upper_levels(state))
        self.entry = int(state["enterpoint_node"])


def link_lists(data):
    """(nodes, bytes) uint8 of one level -> each node's neighbours: a count in two bytes, two of flags, the links."""
    counts = np.ascontiguousarray(data[:, :2]).view(np.uint16).ravel()
    links = np.ascontiguousarray(data[:, 4:]).view(np.uint32).astype(np.int64)
    return [row[:count] for row, count in zip(links, counts, strict=True)]


def upper_levels(state):
    """Levels 1, 2, ...: node -> its neighbours there. A node's levels lie one after the other."""
    width, levels = state["size_links_per_element"], state["element_levels"]
    lists = link_lists(state["link_lists"].view(np.uint8).reshape(-1, width))
    starts = np.concatenate([[0], np.cumsum(levels)])
    for level in range(1, state["max_level"] + 1):
        yield {int(node): lists[starts[node] + level - 1] for node in np.flatnonzero(levels >= level)}


def test_a_file_has_the_same_links(graph, tmp_path):
    graph.save_index(str(tmp_path / "graph"))
    walk, file = State(graph), Walk(GraphFile(tmp_path / "graph"))
    assert file.entry == walk.entry
    np.testing.assert_array_equal(file.vectors, walk.vectors)
    np.testing.assert_array_equal(file.labels, walk.labels)
    for node, links in enumerate(walk.level0):
        np.testing.assert_array_equal(file.level0[node], links)
    assert len(file.upper) == len(walk.upper) > 1
    for own, other in zip(file.upper, walk.upper, strict=True):
        assert own.keys() == other.keys()
        assert all((own[node] == other[node]).all() for node in own)


@pytest.mark.parametrize("ef", [10, 50])
def test_it_finds_what_hnswlib_finds_and_compares_with_few(graph, queries, ef):
    graph.set_ef(ef)
    expected = graph.knn_query(queries, k=10, num_threads=1)[0]
    walk = Walk.of(graph)
    found = [walk.search(query, 10, ef) for query in queries]
    assert np.mean([set(labels) == set(row.tolist()) for (labels, _), row in zip(found, expected, strict=True)]) == 1
    compared = [count for _, count in found]
    assert all(ef < count <= 1500 for count in compared)


def test_dead_nodes_are_passed_through_and_not_returned(graph, queries):
    dead = np.arange(0, 1500, 3)
    walk = Walk.of(graph, dead)
    for label in dead:
        graph.mark_deleted(label)
    graph.set_ef(30)
    expected = graph.knn_query(queries, k=10, num_threads=1)[0]
    for label in dead:
        graph.unmark_deleted(label)
    whole = Walk.of(graph)
    for query, row in zip(queries, expected, strict=True):
        labels, compared = walk.search(query, 10, 30)
        assert set(labels) == set(row.tolist())
        assert compared >= whole.search(query, 10, 30)[1]
