"""Shards: what goes in comes out, the same bytes every time, and bad vectors are named."""

import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from samestyle.errors import IntegrityError
from samestyle.index.build import VectorError, build_shard
from samestyle.index.health import find_orphans
from samestyle.index.nodes import GraphParameters
from samestyle.index.shard import open_shard

DIM = 16
GRAPH = GraphParameters(dim=DIM, m=8, ef_construction=50, seed=1, add_rows=64)


def unit(rows, seed=0, dim=DIM):
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def batches(vectors, members=1, size=100):
    """One row an item: `members` items a node, the vector on the first."""
    rows = [
        {"label": label, "item_id": f"item-{label}-{member}", "vector": list(vector) if member == 0 else None}
        for label, vector in enumerate(vectors)
        for member in range(members)
    ]
    schema = pa.schema([("label", pa.int64()), ("item_id", pa.string()), ("vector", pa.list_(pa.float32()))])
    return pa.Table.from_pylist(rows, schema).to_batches(max_chunksize=size)


def build(folder, vectors, members=1, graph=GRAPH, nodes=None, size=100):
    paths = folder / "shard.hnsw", folder / "items.parquet"
    return build_shard(batches(vectors, members, size), len(vectors) if nodes is None else nodes, graph, *paths), *paths


def test_a_shard_holds_its_nodes_and_their_items(tmp_path):
    built, graph_path, items_path = build(tmp_path, unit(300), members=3)
    assert (built.nodes, built.items, built.orphans) == (300, 900, 0)
    shard = open_shard(graph_path, items_path, DIM, 300)
    assert shard.items.column("item_id").to_pylist()[shard.members(7)] == ["item-7-0", "item-7-1", "item-7-2"]
    assert "vector" not in pq.read_schema(items_path).names
    np.testing.assert_array_equal(shard.vectors(), unit(300))


def test_any_hnswlib_opens_the_file_and_every_vector_finds_itself(tmp_path):
    vectors = unit(300)
    _, graph_path, _ = build(tmp_path, vectors)
    index = hnswlib.Index(space="ip", dim=DIM)
    index.load_index(str(graph_path))
    index.set_ef(100)
    assert index.knn_query(vectors, k=1)[0].ravel().tolist() == list(range(300))


def test_the_same_rows_and_seed_give_the_same_bytes_whatever_the_batches(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, path_a, _ = build(tmp_path / "a", unit(500), size=100)
    second, path_b, _ = build(tmp_path / "b", unit(500), size=33)
    assert path_a.read_bytes() == path_b.read_bytes()
    assert first.insertion_digest == second.insertion_digest


def test_a_single_vector_and_equal_vectors_are_fine(tmp_path):
    assert build(tmp_path, unit(1))[0].orphans == 0
    assert build(tmp_path, np.repeat(unit(1), 50, axis=0))[0].orphans == 0


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda v: v.__setitem__((5, 3), np.nan), r"item-5-0 has length nan, not 1"),
        (lambda v: v.__setitem__(5, 0), r"item-5-0 has length 0.0, not 1"),
        (lambda v: v.__setitem__(5, v[5] * 2), r"item-5-0 has length 2"),
        (lambda v: v.__setitem__((5, 3), np.inf), r"item-5-0 has length inf"),
    ],
)
def test_a_vector_that_is_not_of_unit_length_is_named(tmp_path, spoil, sentence):
    vectors = unit(20)
    spoil(vectors)
    with pytest.raises(VectorError, match=sentence):
        build(tmp_path, vectors)


def test_a_vector_of_another_dimension_is_named(tmp_path):
    with pytest.raises(VectorError, match="item-0-0 has 8 numbers, the index 16"):
        build(tmp_path, unit(20, dim=8))


def test_a_count_that_changed_between_counting_and_building_is_an_error(tmp_path):
    with pytest.raises(IntegrityError, match="20 nodes came, 21 were announced"):
        build(tmp_path, unit(20), nodes=21)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    _, graph_path, items_path = build(tmp_path, unit(20))
    with pytest.raises(IntegrityError, match="has 20 nodes and its item file 20, 19 were recorded"):
        open_shard(graph_path, items_path, DIM, 19)


def test_orphans_are_counted_and_linked_again(tmp_path):
    """Clusters inserted one after the other with few links make orphans, as hnswlib's users know."""
    rng = np.random.default_rng(3)
    centres = unit(40, seed=5)
    clustered = np.concatenate([c + 0.05 * rng.standard_normal((50, DIM)) for c in centres]).astype(np.float32)
    clustered /= np.linalg.norm(clustered, axis=1, keepdims=True)
    poor = GraphParameters(dim=DIM, m=2, ef_construction=4, seed=1)
    index = hnswlib.Index(space="ip", dim=DIM)
    index.init_index(len(clustered), 2, 4, 1)
    index.add_items(clustered, num_threads=1)
    before = len(find_orphans(index))
    built, _, _ = build(tmp_path, clustered, graph=poor)
    assert before > 0
    assert built.orphans_found == before
    assert built.orphans < before
