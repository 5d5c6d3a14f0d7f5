import dataclasses
import json

import hnswlib
import numpy as np
import pytest
from releases import DIM, M, make_manifest, small_catalogue, write_graph

from samestyle.evaluation.recall import perturb, proportion, recalls
from samestyle.index.exact import exact_search
from samestyle.index.health import find_orphans
from samestyle.release.gate import RULES, failures, number, run_gate
from samestyle.release.manifest import NeighbourProbe, Probes, QualityProbe, Recall, VectorProbe
from samestyle.release.store import LocalStore
from samestyle.settings import Gate
from samestyle.tables.drift import quality_probes, vector_probe

LIMITS = Gate(style_recall_min=0.5)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    return make_manifest(LocalStore(folder / "store"), folder)


def with_index(manifest, position, **changes):
    indexes = list(manifest.indexes)
    indexes[position] = dataclasses.replace(indexes[position], **changes)
    return dataclasses.replace(manifest, indexes=tuple(indexes))


def with_shards(manifest, **changes):
    shards = tuple(dataclasses.replace(shard, **changes) for shard in manifest.indexes[0].shards)
    return with_index(manifest, 0, shards=shards)


def all_with_items(manifest, items):
    """Every shard holds `items` living items."""
    for position, index in enumerate(manifest.indexes):
        shards = tuple(dataclasses.replace(shard, items=items) for shard in index.shards)
        manifest = with_index(manifest, position, shards=shards)
    return manifest


def with_ledger(manifest, **counts):
    return dataclasses.replace(manifest, ledger={**manifest.ledger, **counts})


def refusals(manifest, parent=None, limits=LIMITS):
    return {result.rule: result.sentence for result in failures(run_gate(manifest, parent, limits))}


def test_a_good_release_passes_every_rule(good):
    results = run_gate(good, good, LIMITS)
    assert failures(results) == []
    assert {result.rule for result in results} == {
        "recall search/fused", "recall search/image", "recall homepage/fused",
        "orphans search/fused", "orphans search/image", "orphans homepage/fused",
        "items search", "shrink search", "shrink homepage", "growth search", "growth homepage",
            "shrink search/image",
        "rejected", "degraded", "stale", "ledger", "style fused",
        "style fused against parent", "style image against parent",
        "balance search/fused", "balance search/image", "balance homepage/fused",
    }  # fmt: skip


def test_the_first_release_has_nothing_to_be_compared_with(good):
    rules = {result.rule for result in run_gate(good, None, LIMITS)}
    assert not any(rule.startswith(("shrink", "growth")) or "parent" in rule for rule in rules)
    assert refusals(good) == {}


def test_recall_is_judged_by_its_lower_bound(good):
    poor = with_index(good, 1, recall=Recall(10, 0.93, 0.87, 0.97, 100))
    assert refusals(poor) == {
        "recall search/image": "recall@10 of search/image is 0.9300 and its lower bound is 0.8700, "
        "at least 0.9000 is asked for: raise m, ef_construction or index.ef_search and build again"
    }


def test_orphans_of_all_shards_count(good):
    sentence = refusals(with_shards(good, orphans=3))["orphans search/fused"]
    assert "search/fused that cannot be found is 6, at most 0 is asked for: raise m" in sentence


def test_an_empty_release_is_refused(good):
    sentence = refusals(all_with_items(good, 0))["items search"]
    assert sentence.startswith("the number of items of search is 0, at least 1 is asked for: look at the catalogue")


def test_a_module_that_shrank_is_refused_with_both_counts(good):
    found = refusals(all_with_items(good, 40), parent=all_with_items(good, 100))
    assert sorted(found) == ["shrink homepage", "shrink search"]
    assert found["shrink search"].startswith(
        "search has 80 items after 200 of release r1; the share that went is 0.6000, at most 0.3000 is"
    )


def test_a_module_that_is_gone_has_shrunk(good):
    alone = dataclasses.replace(good, indexes=good.indexes[:2])
    assert list(refusals(alone, parent=good)) == ["shrink homepage"]


def test_a_module_that_grew_beyond_belief_is_refused(good):
    found = refusals(all_with_items(good, 201), parent=all_with_items(good, 100))
    assert sorted(found) == ["growth homepage", "growth search"]
    assert "search has 402 items after 200 of release r1; the share that came is 1.0100" in found["growth search"]


@pytest.mark.parametrize("state", ["rejected", "degraded", "stale"])
def test_too_large_a_share_of_an_outcome_is_refused(good, state):
    bad = with_ledger(good, read=100, fresh=79, **{state: 21})
    found = refusals(bad)
    assert list(found) == [state]
    assert found[state].startswith(f"21 of 100 catalogue rows are {state}; their share is 0.2100, at most 0.2000")
    assert refusals(with_ledger(good, read=100, fresh=80, **{state: 20})) == {}


@pytest.mark.parametrize("counts", [{"read": 133}, {"fresh": 131}, {"reused": 1}, {"read": 0, "fresh": 0}])
def test_a_ledger_that_does_not_add_up_is_refused(good, counts):
    found = refusals(with_ledger(good, **counts))
    assert list(found) == ["ledger"]
    assert f"{good.ledger['read'] if 'read' not in counts else counts['read']:,} were read" in found["ledger"]


def test_deleted_items_are_no_catalogue_rows(good):
    assert refusals(with_ledger(good, deleted=50)) == {}


def test_style_recall_is_judged_where_it_was_measured(good):
    poor = dataclasses.replace(good, style_recall={"image": 0.9, "fused": 0.4})
    assert refusals(poor)["style fused"].startswith("same-style R@1 of the fused view is 0.4000, at least 0.5000")
    assert refusals(dataclasses.replace(good, style_recall=None)) == {}


def test_a_view_that_vanishes_is_seen_though_its_module_keeps_its_items(good):
    without = dataclasses.replace(good, indexes=tuple(i for i in good.indexes if i.view != "image"))
    sentences = [result.sentence for result in failures(run_gate(without, good, LIMITS))]
    assert len(sentences) == 1
    assert sentences[0].startswith("search/image has 0 items after ")


def test_a_view_that_finds_fewer_of_the_same_style_than_before_is_refused(good):
    worse = dataclasses.replace(good, style_recall={"image": 0.45, "fused": 0.8})
    found = refusals(worse, parent=good)
    assert list(found) == ["style image against parent"]
    assert found["style image against parent"].startswith(
        "same-style R@1 of the image view is 0.4500 after 0.7000 of release r1; the difference is 0.2500, at most 0.2"
    )
    assert refusals(good, parent=worse) == {}


def with_probes(manifest, **probes):
    return dataclasses.replace(manifest, probes=Probes(**probes))


def test_a_worse_encoder_is_refused_by_the_evaluation_that_both_have(good):
    probes = (QualityProbe("shop-1", "m-m", 0.8, 0.7), QualityProbe("shop-1", "i-i", 0.6, 0.65))
    found = refusals(with_probes(good, quality=probes), parent=good)
    assert list(found) == ["quality m-m"]
    assert (
        "in evaluation shop-1 is 0.7000 after 0.8000 of the one before; the difference is 0.1000"
        in found["quality m-m"]
    )


def record(store, encoder_id, name, at, **recall):
    """An evaluation as `evaluate_encoder` leaves it."""
    mean = {direction.replace("_", "-"): {"recall@1": value, "queries": 9} for direction, value in recall.items()}
    tree = {"mean": mean, "recorded_at": at}
    store.put(f"encoders/{encoder_id}/evaluations/{name}.json", json.dumps(tree).encode())


def test_a_worse_encoder_is_found_out_by_what_was_recorded_of_both(good, tmp_path):
    store = LocalStore(tmp_path)
    for encoder_id, value in (("old", 0.8), ("new", 0.6)):
        record(store, encoder_id, "shop-1", "2026-01-01", m_m=0.9, i_i=0.5)
        record(store, encoder_id, "shop-2", "2026-01-02", m_m=value, i_i=0.5)
    record(store, "new", "shop-3", "2026-01-03", m_m=0.99)  # which the old one never took part in
    probes = tuple(quality_probes(store, "old", "new"))
    assert list(refusals(with_probes(good, quality=probes), parent=good)) == ["quality m-m"]
    assert tuple(quality_probes(store, "old", "old")) == tuple(quality_probes(store, "old", "unknown")) == ()


def shuffled_graph(folder):
    """A sound file whose vectors have lost their places: the links lead anywhere."""
    vectors = small_catalogue(4000).vectors
    path = write_graph(folder / "graph", vectors)
    data = np.fromfile(path, np.uint8)
    width, links = 4 + 8 * M + 4 * DIM + 8, 4 + 8 * M
    rows = data[96 : 96 + len(vectors) * width].reshape(len(vectors), width)
    rows[:, links : links + 4 * DIM] = np.random.default_rng(1).permutation(rows[:, links : links + 4 * DIM])
    data.tofile(path)
    graph = hnswlib.Index("ip", DIM)
    graph.load_index(str(path))
    return graph, np.asarray(graph.get_items(np.arange(len(vectors))), np.float32)


def test_a_graph_whose_vectors_are_not_its_own_is_refused_by_recall_and_by_orphans(good, tmp_path):
    graph, vectors = shuffled_graph(tmp_path)
    queries = perturb(vectors[:200], 0.1, seed=1)
    graph.set_ef(50)
    found, exact = 1 - graph.knn_query(queries, 10, num_threads=1)[1], exact_search(vectors, queries, 10)[1]
    measured = proportion(recalls(found, exact))
    damaged = with_index(good, 0, recall=Recall(10, measured.value, measured.low, measured.high, measured.queries))
    damaged = with_shards(damaged, orphans=min(60, len(find_orphans(graph, tmp_path / "graph"))))
    assert {"recall search/fused", "orphans search/fused"} <= refusals(damaged).keys()


def unit_rows(count, seed):
    rows = np.random.default_rng(seed).normal(size=(count, 8))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def vectors_refused(good, now, then):
    probe = vector_probe("image", now, then)
    return refusals(with_probes(good, vectors=(probe,)), parent=good)


def test_the_vectors_of_a_quiet_night_pass(good):
    rows = unit_rows(200, 1)
    mixed = np.vstack([unit_rows(20, 2), rows[20:]])  # a tenth of the items has other photos
    assert vectors_refused(good, mixed, rows) == {}
    assert vectors_refused(good, rows, None) == {}
    assert vectors_refused(good, rows[:0], rows[:0]) == {}


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 2.0])
def test_vectors_without_a_direction_are_refused(good, value):
    rows = unit_rows(200, 1)
    rows[7] = value
    found = vectors_refused(good, rows, None)
    assert list(found) == ["vectors image"]
    assert found["vectors image"].startswith("of 200 image vectors of the sample the number that are zero, not finite")


def test_photos_that_became_a_placeholder_are_refused(good):
    """Every vector is sound by itself: the image server sends "no picture" for half of the shop."""
    rows = unit_rows(200, 1)
    same = np.vstack([np.tile(unit_rows(1, 3), (100, 1)), rows[100:]])
    found = vectors_refused(good, same, rows)
    assert list(found) == ["centroid image"]
    assert (
        "over the same 200 items the mean image centroid against the parent's: its shift is 0."
        in found["centroid image"]
    )


def test_vectors_that_grew_are_refused(good):
    found = vectors_refused(good, 1.002 * unit_rows(200, 1), unit_rows(200, 1))
    assert sorted(found) == ["length image", "vectors image"]


def test_neighbours_that_are_all_others_are_refused(good):
    probes = (NeighbourProbe("search", 500, 8000, 0.3), NeighbourProbe("homepage", 500, 900, 0.9))
    found = refusals(with_probes(good, neighbours=probes), parent=good)
    assert list(found) == ["neighbours search"]
    assert found["neighbours search"].startswith(
        "of 8,000 neighbours that release r1 lists for 500 sampled items of search the share that is found again is 0.3"
    )


def test_one_shard_that_took_nearly_all_is_refused(good):
    shards = [dataclasses.replace(good.indexes[0].shards[0], shard=n, nodes=3) for n in range(9)]
    shards[4] = dataclasses.replace(shards[4], nodes=73)
    lopsided = with_index(good, 0, shards=tuple(shards))
    found = refusals(lopsided)
    assert found["balance search/fused"].startswith(
        "the largest of 9 shards of search/fused has 73 nodes, the mean is 11; their ratio is 6.7732, at most 3"
    )
    assert "balance search/fused" not in refusals(with_index(lopsided, 0, shard_by="category"))


def test_every_sentence_has_both_values(good):
    probes = Probes(
        (VectorProbe("image", 10, 1, 0.5, 0.5),),
        (NeighbourProbe("search", 1, 2, 0.5),),
        (QualityProbe("e", "m-m", 1, 0),),
    )
    results = run_gate(dataclasses.replace(good, probes=probes), good, LIMITS)
    assert {rule.__name__ for rule in RULES} >= {"sound_vectors", "vector_drift", "neighbour_drift", "encoder_quality"}
    for result in results:
        for value in (result.value, result.limit):
            assert number(value) in result.sentence, result
