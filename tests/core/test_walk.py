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


def test_a_file_has_the_same_links(graph, tmp_path):
    graph.save_index(str(tmp_path / "graph"))
    walk, file = Walk(graph), Walk(GraphFile(tmp_path / "graph"))
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
    walk = Walk(graph)
    found = [walk.search(query, 10, ef) for query in queries]
    assert np.mean([set(labels) == set(row.tolist()) for (labels, _), row in zip(found, expected, strict=True)]) == 1
    compared = [count for _, count in found]
    assert all(ef < count <= 1500 for count in compared)


def test_dead_nodes_are_passed_through_and_not_returned(graph, queries):
    dead = np.arange(0, 1500, 3)
    walk = Walk(graph, dead)
    for label in dead:
        graph.mark_deleted(label)
    graph.set_ef(30)
    expected = graph.knn_query(queries, k=10, num_threads=1)[0]
    for label in dead:
        graph.unmark_deleted(label)
    whole = Walk(graph)
    for query, row in zip(queries, expected, strict=True):
        labels, compared = walk.search(query, 10, 30)
        assert set(labels) == set(row.tolist())
        assert compared >= whole.search(query, 10, 30)[1]
