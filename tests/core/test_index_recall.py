"""Recall of real shards by the functions that executors run; a graph that is torn is seen, and the gate refuses."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from releases import make_manifest

from samestyle.errors import IntegrityError
from samestyle.evaluation.queries import CLICKED, HELD_OUT, PERTURBED, Measurement, Queries, query_seed
from samestyle.evaluation.recall import EXACT, perturb, proportion, recalls, wilson
from samestyle.index.graph_file import HEADER
from samestyle.index.health import graph_health
from samestyle.index.nodes import GraphParameters
from samestyle.release.gate import failures, run_gate
from samestyle.release.manifest import PlacedShard, RecallSlice, Shard, data_digest, decode
from samestyle.release.store import LocalStore
from samestyle.settings import Gate
from samestyle.tables.evaluations import shard_recalls
from udfs.search import recall_measurer, vector_sampler
from udfs.shards import build_and_store

DIM, ROWS, SHARDS, K, EF = 16, 400, 24, 10, 40
GRAPH = GraphParameters(DIM, 8, 50, 1)


def unit(rows, seed):
    """Vectors around a centre, as those of a category are."""
    random = np.random.default_rng(seed)
    drawn = random.standard_normal(DIM) + 0.6 * random.standard_normal((rows, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def shard_rows(number):
    """A node and one item each; the shard's number is its only category."""
    table = {"label": [], "node_key": [], "item_id": [], "alive": [], "category": [], "vector": []}
    for label, vector in enumerate(unit(ROWS, number)):
        key = f"{number}-{label}"
        for alive, row in ((None, vector), (True, None)):
            for name, value in zip(table, (label, key, key, alive, f"shop/{number}", row), strict=True):
                table[name].append(value)
    types = (pa.int64(), pa.string(), pa.string(), pa.bool_(), pa.string(), pa.list_(pa.float32()))
    arrays = [pa.array(values, kind) for values, kind in zip(table.values(), types, strict=True)]
    return pa.Table.from_arrays(arrays, names=list(table)).to_batches()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return LocalStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def built(store, tmp_path_factory) -> list[Shard]:
    made = []
    for number in range(SHARDS):
        record = build_and_store(shard_rows(number), ROWS, GRAPH, tmp_path_factory.mktemp("shard"), store)
        facts = {"shard": number, "key": None, "frozen": True}
        made.append(decode(Shard, facts | record, f"shard {number}"))
    return made


def torn(data: bytes) -> bytes:
    """The file of a graph without any link to half of the nodes; those of the upper levels are spared."""
    header = np.frombuffer(data, HEADER, count=1)[0]
    nodes, width, end = int(header["nodes"]), int(header["width"]), HEADER.itemsize
    upper, place = np.zeros(nodes, bool), end + nodes * width
    for node in range(nodes):
        size = int(np.frombuffer(data, "<u4", 1, place)[0])
        upper[node], place = size > 0, place + 4 + size
    lost = ~upper & (np.arange(nodes) % 2 == 1)
    rows = np.frombuffer(data, np.uint8, nodes * width, end).reshape(nodes, width).copy()
    for node in np.flatnonzero(~lost):
        row = rows[node]
        count = int(row[:2].view("<u2")[0])
        links = row[4 : 4 + 4 * int(header["max_m0"])].view("<u4")
        kept = [link for link in links[:count] if not lost[link]]
        links[: len(kept)], row[:2] = kept, np.array([len(kept)], "<u2").view(np.uint8)
    return data[:end] + rows.tobytes() + data[end + nodes * width :]


@pytest.fixture(scope="module")
def damaged(store, built, tmp_path_factory) -> list[Shard]:
    """The same shards, but that the graph of number 5 is torn."""
    path = tmp_path_factory.mktemp("torn") / "graph"
    path.write_bytes(torn(store.path(built[5].graph.key).read_bytes()))
    return [*built[:5], dataclasses.replace(built[5], graph=store.put_object(path, ".hnsw")), *built[6:]]


def numbers(count=SHARDS):
    return iter([pa.RecordBatch.from_pydict({"shard": pa.array(range(count), pa.int32())})])


def sampled(store, shards, seed, keys=()):
    draw = vector_sampler([PlacedShard(0, s, DIM) for s in shards], store, 480, {0: seed}, {0: list(keys)})
    return [row for batch in draw(numbers(len(shards))) for row in batch.to_pylist()]


def measure(store, shards) -> Measurement:
    """What evaluate_index does, its groupings in plain Python."""
    seed = query_seed(data_digest(shards), 42)
    rows = sampled(store, shards, seed)
    vectors = perturb(np.array([row["vector"] for row in rows], np.float32), 0.2, seed)
    asked = Queries(vectors, (PERTURBED,) * len(rows), tuple(row["category"] for row in rows))
    function = recall_measurer([PlacedShard(0, s, DIM) for s in shards], store, {0: asked}, K, (EF,))
    scores = {ef: np.empty((len(rows), 0)) for ef in (EXACT, EF)}
    alone, compared = {}, []
    for batch in function(numbers(len(shards))):
        shard, ef = batch["shard"][0].as_py(), batch["ef"][0].as_py()
        scores[ef] = np.hstack([scores[ef], np.stack(batch["scores"].to_numpy(zero_copy_only=False))])
        if ef == EF:
            alone[shard] = float(np.mean(batch["recall"].to_numpy()))
            compared.append(batch["compared"].drop_null().to_numpy())
    best = {ef: -np.sort(-found, axis=1)[:, :K] for ef, found in scores.items()}
    return Measurement(
        data_digest(shards), asked, {EF: recalls(best[EF], best[EXACT])}, {EF: alone}, {EF: np.mean(compared)}
    )


def judged(store, shards, folder):
    """The gate's refusals of a release with these shards, as they are measured."""
    measured, manifest = measure(store, shards), make_manifest(store, folder)
    bounds = {r.pop("shard"): r for r in shard_recalls(measured.shards[EF], len(measured.queries))}
    shards = tuple(dataclasses.replace(shard, **bounds[shard.shard]) for shard in shards)
    recall = dataclasses.replace(manifest.indexes[0].recall, **vars(measured.curve()[EF]))
    slices = tuple(RecallSlice(by, name, **vars(share)) for by, name, share in measured.slices(EF))
    index = dataclasses.replace(
        manifest.indexes[0], shards=shards, recall=recall, recall_slices=slices, measured_on=measured.data
    )
    results = run_gate(dataclasses.replace(manifest, indexes=(index,)), None, Gate())
    assert {"shards search/fused", "slices search/fused"} <= {result.rule for result in results}
    return {result.rule: result.sentence for result in failures(results)}


def test_sound_shards_pass(store, built, tmp_path):
    assert judged(store, built, tmp_path) == {}


def test_a_few_queries_of_all_are_counted_step_by_step(store, built):
    measured = measure(store, built[:3])
    assert EF < measured.compared[EF] < ROWS
    assert measured.queries.spread(5) == [0, 120, 240, 359, 479]
    assert [asks(*kinds).spread(5) for kinds in ((), ("a",), ("a", "b"))] == [[], [0], [0, 1]]


def test_one_torn_graph_among_many_is_refused_though_the_whole_finds_enough(store, damaged, tmp_path):
    refused = judged(store, damaged, tmp_path)
    assert "recall search/fused" not in refused, "the other shards make up for it"
    assert refused["shards search/fused"].startswith(
        f"of {SHARDS} shards of search/fused shard 5 finds least, and the upper bound of its recall@10 is 0."
    )
    assert refused["slices search/fused"].startswith(
        f"of {SHARDS + 2} slices of search/fused category 'shop/5' is found least, and the upper bound"
    )


def test_a_torn_graph_shows_in_its_links(store, built, damaged):
    for shard in built:
        assert shard.health.reachable == 1
        assert shard.health.unlinked == 0
        assert shard.health.degrees[0] > 0
        assert shard.health.degrees[4] <= 2 * GRAPH.m
    health = graph_health(store.path(damaged[5].graph.key))
    lost = round(ROWS * (1 - health.reachable))
    assert ROWS / 3 < lost < ROWS / 2
    assert 0 < health.unlinked <= lost, "lost nodes still link to each other"


def test_queries_are_fresh_with_every_build_and_the_same_for_the_same_one(store, built):
    seed = query_seed(data_digest(built), 42)
    first, again = sampled(store, built, seed), sampled(store, built[::-1], seed)
    assert sorted(row["node_key"] for row in first) == sorted(row["node_key"] for row in again)
    assert len(first) == 480
    other = data_digest([*built[:5], dataclasses.replace(built[5], insertion_digest="1" * 64), *built[6:]])
    keys = {row["node_key"] for row in sampled(store, built, query_seed(other, 42))}
    assert len(keys & {row["node_key"] for row in first}) < 100


def test_a_shard_says_which_of_the_keys_it_holds(store, built):
    rows = sampled(store, built[:2], 1, ["0-7", "1-3", "2-7", "elsewhere"])
    assert [row["node_key"] for row in rows if row["vector"] is None] == ["0-7", "1-3"]
    assert {row["category"] for row in rows if row["vector"] is not None} == {"shop/0", "shop/1"}


def test_a_recall_that_was_measured_on_other_shards_is_refused(store, built, tmp_path):
    index = make_manifest(store, tmp_path).indexes[0]
    assert dataclasses.replace(index, measured_on=data_digest(index.shards)).measured_on
    with pytest.raises(IntegrityError, match=r"measured_on is '.*', expected [0-9a-f]{64}, .*run evaluate_index again"):
        dataclasses.replace(index, measured_on=data_digest(built))


def asks(*kinds, categories=None):
    return Queries(np.zeros((len(kinds), 2), np.float32), kinds, categories or (None,) * len(kinds))


def test_a_clicked_item_does_not_find_itself_and_is_not_asked_for_less():
    answers = {2: [[1.0, 0.9]], 3: [[1.0, 0.9, 0.8], [0.95, 0.9, 0.8]]}

    def search(vectors, k):
        return np.zeros(0), np.array(answers[k], np.float32)

    found = asks(CLICKED, PERTURBED, CLICKED).scores(search, 2)
    np.testing.assert_allclose(found, [[0.9, 0.8], [1.0, 0.9], [0.95, 0.9]])


def test_an_index_smaller_than_k_is_asked_for_what_it_has():
    found = asks(CLICKED, HELD_OUT).scores(lambda vectors, k: (None, np.ones((1, 1), np.float32)), 3)
    np.testing.assert_array_equal(found, [[-np.inf] * 3, [1, -np.inf, -np.inf]])
    assert recalls(found, found).tolist() == [1.0, 1.0], "the item itself was all there is"


def test_slices_are_kinds_and_categories_at_every_level_with_enough_queries():
    categories = (*["shoes/boots"] * 5, *["shoes/heels"] * 4, "lamps", None)
    slices = {
        (by, name): len(places) for by, name, places in asks(*[PERTURBED] * 10, CLICKED, categories=categories).slices()
    }
    assert slices == {
        ("queries", PERTURBED): 10, ("queries", CLICKED): 1,
        ("category", "shoes"): 9, ("category", "shoes/boots"): 5,
    }  # fmt: skip


def test_the_intervals_of_many_slices_hold_together():
    """20,000 sound slices of 20 queries: by their own intervals hundreds look bad, together a handful does."""
    hits = np.random.default_rng(0).binomial(20, 0.95, 20_000) / 20
    alone = sum(wilson(p, 20).high < 0.95 for p in hits)
    together = sum(wilson(p, 20, looks=len(hits)).high < 0.95 for p in hits)
    assert alone > 200
    assert together < 10
    assert proportion([0.0] * 20, looks=20_000).high < 0.9, "one that finds nothing is seen all the same"
