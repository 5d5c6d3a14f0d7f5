"""Encoders are measured on the demo's styles, on splits and on pairs, and the figures are those of a plain search."""

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL

from jobs import evaluate_encoder
from samestyle.encoder.export import export_late_fusion
from samestyle.encoder.registry import current_encoder, evaluation_queries, evaluations, register
from samestyle.evaluation.directions import DIRECTIONS
from samestyle.evaluation.records import METRICS, read_results
from samestyle.evaluation.truth import WITHIN, Products, search
from samestyle.release.store import open_store
from samestyle.tables.drift import quality_probes
from samestyle.tables.members import with_vectors
from samestyle.tables.warehouse import Warehouse


@pytest.fixture(scope="module")
def root(night, tmp_path_factory):
    """paths.root of a copy of the finished night."""
    copied = tmp_path_factory.mktemp("evaluated") / "copy"
    shutil.copytree(night.root, copied)
    return copied


def evaluate(root, *words):
    """Exit code, what was printed, and the run's folder."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = evaluate_encoder.main([*SMALL, f"paths.root={root}", "evaluation.bootstrap=100", *words])
    folders = sorted((root / "workshop").glob("evaluate_encoder-*"), key=lambda folder: folder.stat().st_mtime)
    return code, printed.getvalue(), folders[-1]


def served(spark, root, encoder_id):
    """The night's served products with what was encoded of them, as pandas."""
    warehouse = Warehouse(spark, str(root), "delta")
    items = warehouse.items().read().select("item_id", "content_key", "served_at", "style_group", "title", "image_uri")
    return with_vectors(items, warehouse.embeddings_of(encoder_id)).toPandas()


def style_sizes(spark, root):
    """Style to its products, those that could not be embedded too: who is asked does not hang on an encoder."""
    items = Warehouse(spark, str(root), "delta").items().read().where("wanted_key is not null")
    once = items.where("reason is null or reason != 'duplicate_id'")
    return once.select("style_group").toPandas().style_group.value_counts()


def plain_search(frame, sizes):
    """All nine directions by numpy alone, every product of a style of several querying the rest."""

    def rows(view):
        return np.array([np.zeros(256) if v is None else v for v in frame[f"{view}_vector"]], np.float32)

    views = {view: rows(view) for view in ("image", "text", "fused")}
    photos = [d if v is not None else None for d, v in zip(frame.image_digest, frame.image_vector, strict=True)]
    titles = [d if v is not None else None for d, v in zip(frame.title_hash, frame.text_vector, strict=True)]
    shop = Products(list(frame.item_id), list(frame.style_group), photos, titles, views)
    shared = frame.style_group.map(sizes) > 1
    return search(shop.take(np.flatnonzero(shared)).queries(), shop, copies=WITHIN)


def test_every_direction_is_exact_and_two_encoders_are_compared(spark, root, tmp_path):
    store, target = open_store(root / "store"), tmp_path / "figures.json"
    current = current_encoder(store)
    export_late_fusion(tmp_path / "other", 160)
    other = register(store, tmp_path / "other")
    words = ("evaluation.queries=1000", "--encoder", other[:6], "--against", current, "--json", str(target))
    code, printed, folder = evaluate(root, *words)
    assert code == 0, printed

    expected = plain_search(served(spark, root, current), style_sizes(spark, root))
    (name, record), *_ = evaluations(store, current).items()
    found = record["sets"]["style"]["directions"]
    assert list(found) == list(DIRECTIONS)
    for direction, entry in found.items():
        aggregates = expected[direction].aggregates
        assert {key: entry[key] for key in aggregates} == pytest.approx(aggregates), direction
        assert entry["intervals"]["mrr"][0] <= entry["mrr"] <= entry["intervals"]["mrr"][1]
    assert found["m-m"]["queries"] > 90
    assert record["sets"]["style"]["slices"]

    # The other encoder's figures are in the file, under the evaluation's name in both folders, and in the table.
    written = json.loads(target.read_text())
    assert set(written["m-m"]) == {*METRICS, "queries", "pool"}
    assert written == evaluations(store, other)[name]["mean"]
    assert written["i-i"]["mrr"] != found["i-i"]["mrr"]
    # What the gate of the first night with the other encoder will be told.
    asked = {probe.direction: (probe.evaluation, probe.after) for probe in quality_probes(store, current, other)}
    assert asked == {direction: (name, written[direction]["recall@1"]) for direction in DIRECTIONS}
    results = read_results(evaluation_queries(store, other, name))
    assert len(results) == sum(entry["queries"] for entry in written.values())
    rows = Warehouse(spark, str(root), "delta").evaluations.read().where(f"encoder_id = '{other}' and slice = 'style'")
    table = {(row["view"], row["metric"]): (row["value"], row["queries"]) for row in rows.collect()}
    assert table == {(d, m): (written[d][m], written[d]["queries"]) for d in DIRECTIONS for m in METRICS}
    page = (folder / "report.html").read_text()
    assert f"{other} against {current}" in page
    assert "data:image/jpeg" in page
    assert "no report" not in printed

    # Once more: nothing is embedded, and the same name is written again.
    embedded = Warehouse(spark, str(root), "delta").embeddings.read().count()
    assert evaluate(root, "evaluation.queries=1000", "--encoder", other)[0] == 0
    assert Warehouse(spark, str(root), "delta").embeddings.read().count() == embedded
    assert list(evaluations(store, other)) == [name]


@pytest.mark.soak  # tests/spark/test_evaluation_sets.py makes a set of such pairs; it is measured as the other is
def test_pairs_of_the_public_format_bring_their_own_photos(spark, root, tmp_path):
    """Trigger and recall are two offers of a style; the file names photos relative to itself."""
    current = current_encoder(open_store(root / "store"))
    frame = served(spark, root, current).dropna(subset=["image_uri", "image_vector"]).sort_values("item_id")
    pairs = [group.iloc[:2] for _, group in frame.groupby("style_group") if len(group) > 1][:3]
    assert len(pairs) == 3
    shutil.copytree(root / "catalogue" / "images", tmp_path / "images")
    lines = []
    for number, pair in enumerate(pairs):
        wrong = pairs[number - 1].iloc[1]
        for recall, label in ((pair.iloc[1], 1), (wrong, 0)):
            lines.append(
                {
                    "cate_lv1_name": f"industry {number}",
                    "cate_name": "leaf",
                    "trigger_id": f"t{number}",
                    "trigger_title": pair.iloc[0].title,
                    "trigger_img": pair.iloc[0].image_uri,
                    "recall_id": recall.item_id,
                    "recall_title": recall.title,
                    "recall_img": recall.image_uri,
                    "label": label,
                }
            )
    pd.DataFrame(lines).to_json(tmp_path / "pairs.json", orient="records", lines=True)
    words = [f"evaluation.pairs.path={tmp_path / 'pairs.json'}", "evaluation.pairs.format=json"]
    code, printed, folder = evaluate(root, *words, "--json", str(tmp_path / "mean.json"))
    assert code == 0, printed
    record = json.loads((folder / "evaluation.json").read_text())
    pairs_figures = record["sets"]["pairs"]["directions"]
    assert list(pairs_figures) == list(DIRECTIONS)
    assert {entry["queries"] for entry in pairs_figures.values()} == {3}
    assert pairs_figures["m-m"]["pool"] == 3
    assert sorted(record["sets"]["pairs"]["slices"]) == ["industry 0", "industry 1", "industry 2"]
    # The demo's styles are a second set; the file holds the mean over both.
    mean = (pairs_figures["m-m"]["mrr"] + record["sets"]["style"]["directions"]["m-m"]["mrr"]) / 2
    assert json.loads((tmp_path / "mean.json").read_text())["m-m"]["mrr"] == pytest.approx(mean)
    assert "mean over the sets" in printed
