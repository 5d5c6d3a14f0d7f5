"""What a shard offers for lists of neighbours, on real shards: near nodes, whoever crowds them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from releases import DIM, small_catalogue, store_shard, write_graph, write_items

from samestyle.index.candidates import (
    PORTION,
    Candidates,
    CandidateShard,
    Reach,
    in_turns,
    joined,
    near_together,
    varied,
)
from samestyle.index.shard import OpenShard, open_shard
from samestyle.release.manifest import PlacedShard
from samestyle.release.store import LocalStore
from udfs import search


def near(centre: np.ndarray, count: int, cosine: float, seed: int) -> np.ndarray:
    """Unit vectors at about this cosine of the centre, a unit vector."""
    steps = np.random.default_rng(seed).standard_normal((count, DIM))
    steps -= np.outer(steps @ centre, centre)
    steps *= np.sqrt(1 / cosine**2 - 1) / np.linalg.norm(steps, axis=1, keepdims=True)
    vectors = centre + steps
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


CENTRE = np.eye(1, DIM)[0].astype(np.float32)
COPIES, OTHERS = 200, 100


def shard(folder: Path, vectors: np.ndarray, suppliers: list[list[str | None]]) -> OpenShard:
    """suppliers: of each node's items."""
    rows = [
        {
            "label": label,
            "node_key": f"node{label}",
            "item_id": f"i{label:03d}-{n:03d}",
            "alive": True,
            "supplier_id": supplier,
            "category": "lamps",
        }
        for label, names in enumerate(suppliers)
        for n, supplier in enumerate(names)
    ]
    graph, items = write_graph(folder / "g.hnsw", vectors), write_items(folder / "g.parquet", rows)
    return open_shard(graph, items, DIM, len(vectors))


@pytest.fixture
def crowded(tmp_path):
    """A supplier lists one offer 200 times, each a little different; 20 others sell the same, a little further off."""
    vectors = np.vstack([near(CENTRE, COPIES, 0.98, 1), near(CENTRE, OTHERS, 0.9, 2)])
    return CandidateShard(shard(tmp_path, vectors, [["copies"]] * COPIES + [[f"s{n % 20}"] for n in range(OTHERS)]))


def find(candidates: CandidateShard, queries: np.ndarray, reach: Reach) -> Candidates:
    return joined(list(candidates.find(queries, reach)))


def named(candidates: CandidateShard, reach: Reach) -> Counter[str | None]:
    """Suppliers of the items found for the centre."""
    found = find(candidates, CENTRE[None], reach)
    _, rows = candidates.rows_of(found, reach.members)
    return Counter(candidates.items["supplier_id"].take(pa.array(rows)).to_pylist())


@pytest.mark.parametrize("ef", [None, 400])
def test_a_supplier_with_200_copies_does_not_fill_the_list(crowded, ef):
    plain = named(crowded, Reach(50, ef, floor=0.5))
    assert plain == {"copies": 50}
    deeper = named(crowded, Reach(50, ef, floor=0.5, most=800, varied=20, per_supplier=3))
    assert deeper["copies"] == COPIES
    assert sum(min(3, count) for count in deeper.values()) >= 20


def test_it_goes_no_deeper_than_the_floor(crowded):
    """The others, at .9, are of no use where .95 is the least."""
    found = named(crowded, Reach(50, None, floor=0.95, most=800, varied=20, per_supplier=3))
    assert found == {"copies": COPIES}


def test_most_is_the_most(crowded):
    assert sum(named(crowded, Reach(50, None, floor=0.5, most=60, varied=20, per_supplier=3)).values()) == 60


def test_a_shop_of_one_supplier_is_not_searched_for_others(tmp_path):
    one = CandidateShard(shard(tmp_path, near(CENTRE, 100, 0.9, 3), [["only"]] * 100))
    assert named(one, Reach(10, None, floor=0.5, most=80, varied=20, per_supplier=3)) == {"only": 10}


def test_unknown_suppliers_crowd_nobody_out(tmp_path):
    unknown = CandidateShard(shard(tmp_path, near(CENTRE, 100, 0.9, 3), [[None]] * 100))
    assert named(unknown, Reach(30, None, floor=0.5, most=80, varied=20, per_supplier=3)) == {None: 30}


def test_a_node_names_each_supplier_before_a_second_item_of_any(tmp_path):
    """200 offers of one supplier share photo and title with three of others."""
    vectors = np.vstack([CENTRE[None], near(CENTRE, 9, 0.9, 4)])
    suppliers: list[list[str | None]] = [["many"] * 200 + ["a", "b", None], *[["far"]] * 9]
    candidates = CandidateShard(shard(tmp_path, vectors, suppliers))
    found = named(candidates, Reach(1, None, members=5))
    assert found == {"many": 2, "a": 1, "b": 1, None: 1}


def test_turns_and_variety_by_hand():
    items = pa.table(
        {"label": [0, 0, 0, 0, 1, 1], "item_id": list("abcdef"), "supplier_id": ["x", "x", "y", None, "z", "z"]}
    )
    assert in_turns(items)["item_id"].to_pylist() == ["a", "c", "d", "b", "e", "f"]
    assert varied(np.array([[5, 5, 5, 7], [5, 6, -1, -1], [5, 5, 5, 5]]), 2).tolist() == [3, 4, 2]


def test_rows_are_those_of_their_query(crowded):
    """Each query's candidates are what the shard finds for it, although some are asked again."""
    queries = np.vstack([CENTRE, -CENTRE, near(CENTRE, 3, 0.5, 5)])
    reach = Reach(20, None, floor=-1.0, most=80, varied=15, per_supplier=3)
    found = find(crowded, queries, reach)
    for number, query in enumerate(queries):
        own = found.queries == number
        labels, scores = crowded.shard.search_exactly(query[None], int(own.sum()))
        assert set(found.labels[own]) == set(labels[0])
        np.testing.assert_allclose(np.sort(found.scores[own])[::-1], scores[0], atol=1e-6)
    assert {int((found.queries == n).sum()) for n in range(5)} == {20, 80}


def test_near_queries_are_searched_one_after_the_other():
    """Of 20 clusters, mixed, the next query is of another one 19 times in 20; then no more often than pivots change."""
    centres = near(CENTRE, 20, 0.1, 6)
    clusters = np.random.default_rng(8).integers(20, size=4000)
    queries = np.stack([near(centres[cluster], 1, 0.95, n)[0] for n, cluster in enumerate(clusters)])
    order = near_together(queries, 250)
    assert sorted(order) == list(range(4000))
    assert np.count_nonzero(np.diff(clusters)) > 3700
    assert np.count_nonzero(np.diff(clusters[order])) < 500
    assert near_together(queries[:0], 250).tolist() == []
    assert near_together(queries[:3], 0).tolist() == [0, 1, 2]


def test_more_queries_than_are_searched_at_a_time(crowded):
    """Every query is asked once, and its candidates are its own."""
    queries = near(CENTRE, PORTION + 10, 0.7, 9)
    parts = list(crowded.find(queries, Reach(3, None)))
    assert [len(np.unique(part.queries)) for part in parts] == [PORTION, 10]
    found = joined(parts)
    assert (np.bincount(found.queries, minlength=len(queries)) == 3).all()
    best = crowded.shard.search_exactly(queries, 1)[1][:, 0]
    highest = np.zeros(len(queries), np.float32)
    np.maximum.at(highest, found.queries, found.scores)
    np.testing.assert_allclose(highest, best, atol=1e-6)


def test_a_worker_finds_the_same_however_its_queries_come(tmp_path, monkeypatch):
    """In batches of other sizes than those that are put in order together, empty ones among them."""
    catalogue, store = small_catalogue(), LocalStore(tmp_path / "store")
    placed = PlacedShard(0, store_shard(store, tmp_path / "shard", 0, catalogue), DIM)
    find = search.candidate_finder([placed], store, [Reach(4, None, members=1)])
    rows = pa.RecordBatch.from_pydict(
        {
            "shard": pa.array([0] * 25, pa.int32()),
            "query_id": [f"q{n}" for n in range(25)],
            "vector": pa.array(list(catalogue.vectors[:25]), pa.list_(pa.float32())),
        }
    )
    whole = answers(find(iter([rows])))
    assert len(whole) == 100
    assert all((f"q{n}", f"i{n:05d}a") in whole for n in range(25))
    monkeypatch.setattr(search, "QUERIES", 7)
    cut = [rows.slice(0, 5), rows.slice(5, 0), rows.slice(5, 9), rows.slice(14)]
    assert answers(find(iter(cut))) == whole


def answers(batches: Iterator[pa.RecordBatch]) -> set[tuple[str, str]]:
    return {(row["query_id"], row["item_id"]) for batch in batches for row in batch.to_pylist()}
