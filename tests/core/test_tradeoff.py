"""What a search costs and finds over several shards, against answers that can be worked out by hand."""

import hnswlib
import numpy as np
import pyarrow as pa

from samestyle.evaluation.tradeoff import found_items, hardest, homes, merged, trade_off
from samestyle.index.shard import OpenShard


def shard(vectors: np.ndarray, ids: list[str], links: bool = True) -> OpenShard:
    """One node an item. Without links between the nodes, a search finds where it starts and nothing else."""
    graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
    graph.init_index(len(vectors), M=16 if links else 2, ef_construction=100 if links else 1, random_seed=1)
    graph.add_items(vectors, np.arange(len(vectors)), num_threads=1)
    items = pa.table({"label": range(len(vectors)), "item_id": ids, "alive": [True] * len(ids)})
    return OpenShard(graph, items, np.arange(len(vectors) + 1), np.arange(len(vectors)))


def circle(degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


TWO = [shard(circle([0, 10, 20]), ["a0", "a10", "a20"]), shard(circle([5, 90]), ["b5", "b90"])]
QUERY = circle([1])


def test_the_best_of_all_shards_come_in_order():
    assert [item for item, _ in found_items(TWO, QUERY[0], 3, None)] == ["a0", "b5", "a10"]
    assert found_items(TWO, QUERY[0], 3, 10) == found_items(TWO, QUERY[0], 3, None)
    assert homes(TWO, QUERY, 4).tolist() == [[0, 1, 0, 0]]


def test_of_a_node_a_living_member_is_shown():
    first = shard(circle([0]), ["gone"])
    first.items = pa.table({"label": [0, 0], "item_id": ["gone", "here"], "alive": [False, True]})
    first.first_row = np.array([0, 2])
    assert [item for item, _ in found_items([first], QUERY[0], 3, None)] == ["here"]


def test_fewer_nodes_than_asked_for_leave_room():
    assert merged([np.array([[0.9]]), np.array([[0.95, 0.1]])], 4).tolist() == [[0.95, 0.9, 0.1, -np.inf]]


def test_more_effort_finds_more():
    """Random directions in few links: a short list misses what a long one finds."""
    vectors = np.random.default_rng(0).standard_normal((400, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    poor = [shard(vectors[:200], [f"a{n}" for n in range(200)], False), shard(vectors[200:], ["b"] * 200, False)]
    short, long = trade_off(poor, vectors[:50], 10, (400, 10))
    assert (short.ef, long.ef) == (10, 400)
    assert short.recall.value < long.recall.value <= 1
    assert short.recall.queries == 50
    assert short.ms > 0
    assert trade_off(TWO, QUERY, 3, (10,))[0].recall.value == 1


def test_the_hardest_query_is_the_one_that_misses_most():
    vectors = np.random.default_rng(0).standard_normal((400, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    poor = [shard(vectors, ["a"] * 400, False)]
    exact = poor[0].search_exactly(vectors[:50], 10)[0]
    found = poor[0].search(vectors[:50], 10, 10)[0]
    common = [len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)]
    assert common[hardest(poor, vectors[:50], 10, 10)] == min(common) < 10
