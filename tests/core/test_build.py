"""Shards: what goes in comes out, the same bytes every time, and bad vectors are named."""

import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from samestyle.errors import IntegrityError, UsageError
from samestyle.index.build import VectorError, build_shard
from samestyle.index.health import find_orphans
from samestyle.index.items import write_items
from samestyle.index.nodes import GraphHealth, GraphParameters
from samestyle.index.shard import open_shard
from samestyle.release.store import LocalStore, StoreError, reporting
from samestyle.settings import Index, Module, Settings
from samestyle.tables.modules import shard_limits, shard_lines
from udfs.shards import labelled, shard_builder

DIM = 16
GRAPH = GraphParameters(dim=DIM, m=8, ef_construction=50, seed=1, add_rows=64)


def unit(rows, seed=0, dim=DIM):
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def batches(vectors, members=1, size=100):
    """For each node its row, which has the vector, and then its `members` items."""
    rows = [
        {
            "label": label,
            "node_key": f"node-{label}",
            "item_id": f"item-{label}-{max(member, 0)}",
            "alive": None if member < 0 else True,
            "vector": list(vector) if member < 0 else None,
        }
        for label, vector in enumerate(vectors)
        for member in range(-1, members)
    ]
    columns = [
        ("label", pa.int64()),
        ("node_key", pa.string()),
        ("item_id", pa.string()),
        ("alive", pa.bool_()),
        ("vector", pa.list_(pa.float32())),
    ]
    return pa.Table.from_pylist(rows, pa.schema(columns)).to_batches(max_chunksize=size)


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
    built, graph_path, items_path = build(tmp_path, unit(1))
    assert (built.orphans, built.health) == (0, GraphHealth((0, 0, 0, 0, 0), unlinked=1, reachable=1.0))
    labels, scores = open_shard(graph_path, items_path, DIM, 1).search(unit(2, seed=1), 10, 100)
    assert labels.tolist() == [[0], [0]]
    np.testing.assert_allclose(scores[:, 0], unit(2, seed=1) @ unit(1)[0], atol=1e-6)
    assert build(tmp_path, np.repeat(unit(1), 50, axis=0))[0].orphans == 0


def test_a_shard_that_no_node_came_to_is_none(tmp_path):
    """A node's hash says which shard it goes to, so that the last and smallest one may get nothing."""
    builder = shard_builder({}, {}, LocalStore(tmp_path))
    assert list(builder(iter([]))) == []
    assert list(builder(iter(batches(unit(0), size=10)))) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_nodes_are_labelled_in_the_order_in_which_they_come(size):
    came = batches(unit(9), members=2, size=size)
    shuffled = [batch.set_column(0, "label", pa.array([99] * batch.num_rows, pa.int64())) for batch in came]
    assert pa.Table.from_batches(labelled(shuffled)) == pa.Table.from_batches(came)


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("lost", [0, 4])
def test_an_item_whose_node_has_no_vector_is_named(size, lost):
    """Else it would be taken for an item of the node before it."""
    rows = [row for row in pa.Table.from_batches(batches(unit(9))).to_pylist() if row["vector"] or row["alive"]]
    table = pa.Table.from_pylist([row for row in rows if not (row["vector"] and row["label"] == lost)])
    with pytest.raises(IntegrityError, match=f"item item-{lost}-0 came without the vector of its node"):
        list(labelled(table.to_batches(max_chunksize=size)))


def test_nearly_equal_vectors_are_all_found(tmp_path):
    near = np.repeat(unit(1), 200, axis=0) + 1e-4 * np.random.default_rng(1).standard_normal((200, DIM))
    near = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    built, graph_path, items_path = build(tmp_path, near)
    assert built.orphans == 0
    _, scores = open_shard(graph_path, items_path, DIM, 200).search(near, 1, 100)
    assert (scores > 1 - 2e-6).all()


def test_a_shard_with_fewer_nodes_than_asked_for_gives_them_all(tmp_path):
    _, graph_path, items_path = build(tmp_path, unit(3))
    labels, scores = open_shard(graph_path, items_path, DIM, 3).search(unit(2, seed=1), 10, 100)
    assert labels.shape == scores.shape == (2, 3)
    assert np.sort(labels).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_a_node_without_a_living_item_is_never_found(tmp_path):
    _, graph_path, items_path = build(tmp_path, unit(40))
    rows = pq.read_table(items_path).to_pylist()
    dead = [
        {**row, "alive": row["label"] % 2 == 1, "item_id": row["item_id"] if row["label"] % 2 else ""} for row in rows
    ]
    counts = write_items(pa.Table.from_pylist(dead).to_batches(), 40, items_path)
    assert (counts.items, counts.dead) == (20, 20)
    shard = open_shard(graph_path, items_path, DIM, 40)
    for labels, _ in (shard.search(unit(40), 30, 100), shard.search_exactly(unit(40), 30)):
        assert set(labels.ravel().tolist()) == set(range(1, 40, 2))


def test_an_item_file_does_not_depend_on_how_its_rows_came(tmp_path):
    rows = pa.table({"label": np.arange(200_000), "alive": np.ones(200_000, bool)})
    for name, size in (("a", 1000), ("b", 70_000)):
        write_items(rows.to_batches(max_chunksize=size), 200_000, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pq.ParquetFile(tmp_path / "a").metadata.num_row_groups == 4


@pytest.mark.parametrize("labels", [[0, 2], [1], [0, 1, 0]])
def test_a_label_without_a_row_or_out_of_order_is_an_error(tmp_path, labels):
    rows = pa.table({"label": pa.array(labels, pa.int64()), "alive": [True] * len(labels)})
    with pytest.raises(IntegrityError, match="out of order, or one before it has no row"):
        write_items(rows.to_batches(), 3, tmp_path / "items")


def test_a_full_disk_is_noticed(tmp_path):
    """hnswlib's save_index says nothing; /dev/full takes nothing."""
    (tmp_path / "shard.hnsw").symlink_to("/dev/full")
    with pytest.raises(IntegrityError, match=r"has 0 bytes, \d+ were to be written: is the disk full"):
        build(tmp_path, unit(20))


def test_a_full_disk_is_noticed_by_the_item_file_as_well(tmp_path):
    (tmp_path / "items.parquet").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"no room left to write .*: free some"), reporting(tmp_path):
        build(tmp_path, unit(20))


def test_memory_bounds_the_nodes_of_a_shard():
    large = GraphParameters(dim=256, m=16, ef_construction=200, seed=1)
    rows = large.rows_within(2 * 2**30)
    assert 1_300_000 < rows < 1_500_000
    assert large.build_bytes(rows) <= 2 * 2**30 < large.build_bytes(rows + 1)
    assert large.rows_within(2**20) == 0


def settings(**index):
    return Settings(index=Index(**index), modules={"search": Module(shard_rows=1_000_000)})


def test_the_smaller_of_rows_and_memory_decides():
    module = settings().modules["search"]
    assert shard_limits(settings(), module, 256).rows == 1_000_000
    assert shard_limits(settings(memory_gib=2), module, 256).rows == 1_000_000
    assert 400_000 < shard_limits(settings(memory_gib=1), module, 256).rows < 800_000
    with pytest.raises(UsageError, match=r"index.memory_gib is 0.1: the smallest shard needs 0.\d\d"):
        shard_limits(settings(memory_gib=0.1), module, 256)


@pytest.mark.parametrize(
    ("memory", "line"),
    [
        (None, "up to 3 shards a view of 1,000,000 nodes, 1,477 MiB of memory a shard (1,329 bytes a vector)"),
        (1.0, "up to 5 shards a view of 642,797 nodes, 1,024 MiB of memory a shard (1,329 bytes a vector)"),
    ],
)
def test_the_plan_tells_shards_and_their_memory(memory, line):
    """With 1 GiB: (1,024 MiB - 180 MiB for the process - 29.3 MiB for 10,000 vectors thrice) / 1,329 bytes."""
    (printed,) = shard_lines(settings(memory_gib=memory), 3_000_000, 256, None, "encoder")
    assert printed.endswith(line)


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
    index.save_index(str(tmp_path / "poor"))
    before = len(find_orphans(index, tmp_path / "poor"))
    index.set_ef(100)
    asked = np.asarray(index.get_items(index.get_ids_list()))
    assert before == (index.knn_query(asked, k=1)[1][:, 0] > 1 - (asked**2).sum(axis=1) + 1e-6).sum()
    built, _, _ = build(tmp_path, clustered, graph=poor)
    assert before > 0
    assert built.orphans_found == before
    assert built.orphans < before
