"""Training pairs end to end: on the demo's simulated log, on two real logs that have only ids, and on ready pairs."""

import csv
import io
import json
import shutil
from argparse import Namespace
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from itertools import combinations
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import sample_pairs
from samestyle.encoder.registry import EncoderReference
from samestyle.release.lease import Holder, Lease
from samestyle.release.store import open_store
from samestyle.runs import RunFolder
from samestyle.settings import load_settings
from samestyle.tables.warehouse import Warehouse
from samestyle.tables.workshop import Workshop, workshop_main
from tests.jobs.conftest import SMALL, Ended

# So small a shop has hardly a pair that is as near as the default asks for.
NEAR = "pairs.fused_min=0.5"


def sample(root: Path, *words: str) -> Ended:
    """Run the job in this process, in the suite's session."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = workshop_main(
            "sample_pairs", sample_pairs.__doc__, sample_pairs.run, argv=[f"paths.root={root}", *words]
        )
    return Ended(code, printed.getvalue(), root)


def funnel_of(folder: Path) -> dict:
    return json.loads((folder / "funnel.json").read_text())


def newest(root: Path) -> Path:
    return sorted((root / "workshop").iterdir())[-1]


def steps(record: dict) -> dict[str, tuple[int, int]]:
    return {step["rule"]: (step["rows_in"], step["rows_out"]) for step in record["funnel"] if not step["skipped"]}


def skipped(record: dict) -> dict[str, str]:
    return {step["rule"]: step["skipped"] for step in record["funnel"] if step["skipped"]}


def table_of(spark, root: Path) -> list:
    return Warehouse(spark, str(root), "delta").pairs.read().collect()


def co_clicked(visits: pd.DataFrame) -> Counter:
    """visits: visit, item_id. How many visits each pair of items shares, counted in plain Python."""
    counts: Counter = Counter()
    for _, items in visits.drop_duplicates().groupby("visit").item_id:
        counts.update(combinations(sorted(items), 2))
    return counts


def united(pairs) -> dict[str, str]:
    """item -> one item that stands for its group."""
    parent = {item: item for pair in pairs for item in pair}

    def root(item: str) -> str:
        while parent[item] != item:
            item = parent[item]
        return item

    for a, b in pairs:
        parent[root(a)] = root(b)
    return {item: root(item) for item in parent}


def assert_groups_are(rows: list) -> None:
    """The style groups are the connected components, and none crosses a split."""
    groups = united([(row["trigger_id"], row["offer_id"]) for row in rows])
    assert len({(groups[row["trigger_id"]], row["style_group"]) for row in rows}) == len(set(groups.values()))
    assert len({row["style_group"] for row in rows}) == len({(row["style_group"], row["split"]) for row in rows})


@pytest.fixture(scope="module")
def sampled(night, tmp_path_factory) -> Ended:
    root = tmp_path_factory.mktemp("pairs") / "out"
    shutil.copytree(night.root, root)
    ended = sample(root, *SMALL, NEAR)
    assert ended.code == 0, ended.text
    return ended


def demo_tables(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = next((root / "catalogue").glob("offers-*/day-0001"))
    return pd.read_parquet(folder / "catalogue.parquet").set_index("item_id"), pd.read_parquet(
        folder / "clicks.parquet"
    )


def test_the_funnel_of_the_demo_is_what_plain_python_counts(spark, sampled):
    record, (_, clicks) = funnel_of(newest(sampled.root)), demo_tables(sampled.root)
    items = Warehouse(spark, str(sampled.root), "delta").items().read().where("content_key is not null").toPandas()
    known = clicks[clicks.item_id.isin(items.item_id)]
    counts = co_clicked(known.rename(columns={"session_id": "visit"})[["visit", "item_id"]])
    category, content = items.set_index("item_id").category, items.set_index("item_id").content_key
    same = [pair for pair in counts if category[pair[0]] == category[pair[1]]]
    found = steps(record)
    assert found["of known items"] == (len(clicks), len(known))
    assert found["clicked together"][1] == len(counts)
    assert found["the same leaf category"] == (len(counts), len(same))
    assert found["not the same content"][1] == sum(content[a] != content[b] for a, b in same)
    assert skipped(record) == {}
    for before, after in zip(record["funnel"], record["funnel"][1:], strict=False):
        assert before["rows_out"] == after["rows_in"]


def test_the_pairs_of_the_demo_keep_every_rule(spark, sampled):
    rows, (catalogue, clicks) = table_of(spark, sampled.root), demo_tables(sampled.root)
    counts = co_clicked(clicks.rename(columns={"session_id": "visit"})[["visit", "item_id"]])
    assert len(rows) > 5
    for row in rows:
        pair = row["trigger_id"], row["offer_id"]
        assert pair[0] < pair[1]
        assert row["clicks"] == counts[pair]
        assert row["category"] == catalogue.category[pair[0]] == catalogue.category[pair[1]]
        assert 0.5 <= row["relevance"] <= 1.0001
        assert row["label"] is None
    assert_groups_are(rows)


def test_precision_is_that_of_the_true_styles_and_is_printed(spark, sampled):
    record, (catalogue, _) = funnel_of(newest(sampled.root)), demo_tables(sampled.root)
    style = catalogue.style_group
    rows = table_of(spark, sampled.root)
    right = sum(style[row["trigger_id"]] == style[row["offer_id"]] for row in rows)
    assert record["pairs"] == record["truth"]["pairs"] == len(rows) == sum(record["splits"].values())
    assert record["truth"]["precision"] == pytest.approx(right / len(rows))
    assert f"precision {right / len(rows):.3f}" in sampled.text


def test_the_report_shows_kept_and_refused_pairs_with_photos(sampled):
    page = (newest(sampled.root) / "report.html").read_text()
    assert "Against the true styles" in page
    assert "by the rule: the same leaf category" in page
    assert page.count("data:image/jpeg") > 10
    assert page.count("data:image/svg") == 2
    assert not (newest(sampled.root) / "scratch").exists()


@pytest.mark.soak  # the demo's log goes through the same rules, and the next one is real as well
def test_grocery_clicks_with_ids_and_categories_only(spark, data_folder, tmp_path):
    clicks = pd.read_parquet(data_folder / "clicks_amazon_grocery.parquet")
    items = pd.read_parquet(data_folder / "clicks_amazon_grocery_items.parquet").set_index("item_id")
    path = data_folder / "clicks_amazon_grocery"
    words = [f"clicks.path={path}.parquet", "clicks.columns.clicked_at=time", "clicks.window_days=60"]
    words += [f"catalogue.path={path}_items.parquet", "catalogue.columns.category=i_category"]
    ended = sample(tmp_path / "out", *words, "pairs.per_item_max=100000")
    assert ended.code == 0, ended.text

    window = clicks[clicks.time >= clicks.time.max() - 60 * 86400]
    visits = window.assign(visit=window.user_id.astype(str) + " " + (window.time // 86400).astype(str))
    counts = co_clicked(visits[["visit", "item_id"]])
    same = [pair for pair in counts if items.i_category[pair[0]] == items.i_category[pair[1]]]
    record = funnel_of(newest(tmp_path / "out"))
    found, reasons = steps(record), skipped(record)
    assert found["of the window"] == (len(clicks), len(window))
    assert found["clicked together"][1] == len(counts)
    assert found["the same leaf category"] == (len(counts), len(same))
    assert record["pairs"] == len(same) > 100
    assert record["groups"] == len(set(united(same).values()))
    assert reasons == {
        "not the same content": "no titles or photos",
        "similar titles": "no vectors of titles",
        "similar as a whole": "no vectors",
    }
    assert record["truth"] is None


def test_session_clicks_without_any_catalogue(spark, night, data_folder, tmp_path):
    """What the job does where no catalogue is mapped: the sampling alone, as the demo's catalogue is not the log's."""
    clicks = pd.read_parquet(data_folder / "clicks_diginetica_sample.parquet")
    path = data_folder / "clicks_diginetica_sample.parquet"
    settings = load_settings("dev", overrides=[f"paths.root={tmp_path}", f"clicks.path={path}", "pairs.clicks_min=2"])
    store, folder = open_store(tmp_path / "store"), RunFolder(tmp_path / "workshop" / "one")
    folder.begin({})
    printed = io.StringIO()
    with Lease.acquire(store, "sample_pairs", Holder.of_this_process("one"), 60) as lease, redirect_stdout(printed):
        sample_pairs.run(
            spark, Workshop(spark, settings, folder, store, lease, EncoderReference(store, "none"), None, Namespace())
        )

    visits = clicks.rename(columns={"session_id": "visit"})[["visit", "item_id"]].astype(str).drop_duplicates()
    human = visits[visits.groupby("visit").item_id.transform("size") <= 50]
    counts = co_clicked(human)
    record = funnel_of(folder.path)
    assert steps(record)["of no robot"] == (len(visits), len(human))
    assert len(human) == len(visits) - 52
    assert steps(record)["clicked together"][1] == len(counts)
    assert steps(record)["clicked together often enough"][1] == sum(visits >= 2 for visits in counts.values())
    assert len(skipped(record)) == 6
    assert "skipped: no column category" in printed.getvalue()
    rows = table_of(spark, tmp_path)
    assert {row["relevance"] for row in rows} == {None}
    assert_groups_are(rows)


PUBLIC = ("cate_lv1_name", "cate_name", "trigger_id", "trigger_title", "recall_id", "recall_title", "label")


def test_ready_pairs_of_the_public_format_are_grouped_and_split(spark, tmp_path):
    """a-b-c are one group; the label 0 between c and x links nothing; what cannot be used stands in the funnel."""
    catalogue = tmp_path / "catalogue.parquet"
    pq.write_table(pa.table({"item_id": list("abcxy"), "title": ["mug"] * 5}), catalogue)
    with open(tmp_path / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(PUBLIC)
        for trigger, offer, label in ("ba1", "bc1", "cx0", "xy1", "aa1", "bc1", ("a", "", "1"), "abz", "xq1"):
            lines.writerow(["Home", "Mugs", trigger, "a, b", offer, 'a "c"', label])
    words = [f"pairs.path={tmp_path / 'pairs.csv'}", "pairs.format=csv", f"catalogue.path={catalogue}"]
    ended = sample(tmp_path / "out", *words)
    assert ended.code == 0, ended.text
    rows = {row["trigger_id"] + row["offer_id"]: row for row in table_of(spark, tmp_path / "out")}
    assert {pair: row["label"] for pair, row in rows.items()} == {"ba": 1, "bc": 1, "cx": 0, "xy": 1, "xq": 1}
    assert {row["category"] for row in rows.values()} == {"Home/Mugs"}
    assert rows["ba"]["style_group"] == rows["bc"]["style_group"] == rows["cx"]["style_group"]
    assert rows["xy"]["style_group"] == rows["xq"]["style_group"] != rows["ba"]["style_group"]
    found = steps(funnel_of(newest(tmp_path / "out")))
    assert found["of two offers"] == (9, 7)
    assert found["no label, or a number"] == (7, 6)
    assert found["once each"] == (6, 5)
    assert "ready pairs with an item that is not known: 1;" in ended.text


@pytest.fixture
def shop(tmp_path) -> str:
    pq.write_table(pa.table({"item_id": list("abcd"), "title": list("ABCD")}), tmp_path / "catalogue.parquet")
    return f"catalogue.path={tmp_path / 'catalogue.parquet'}"


def log(tmp_path: Path, **columns: list) -> str:
    pq.write_table(pa.table(columns), tmp_path / "clicks.parquet")
    return f"clicks.path={tmp_path / 'clicks.parquet'}"


def test_without_clicks_or_visits_the_way_out_is_named(spark, shop, tmp_path):
    ended = sample(tmp_path / "out", shop)
    assert ended.code == 2
    assert "no click log is given: set clicks.table or clicks.path, or pairs.path for ready pairs" in ended.text
    ended = sample(tmp_path / "out", shop, log(tmp_path, item_id=["a"], session=["s"]))
    assert ended.code == 2
    assert "clicks.columns.session_id (or user_id)): did you mean session" in ended.text


def test_times_that_cannot_be_read_are_shown(spark, shop, tmp_path):
    times = log(tmp_path, item_id=["a", "b"], session_id=["s", "s"], clicked_at=["yesterday", "at noon"])
    ended = sample(tmp_path / "out", shop, times)
    assert ended.code == 5
    assert "none of 2 clicks has a time that can be read: column clicked_at" in ended.text
    assert "is string and holds 'yesterday'; write times as" in ended.text


def test_nothing_left_refuses_and_keeps_the_table(spark, shop, tmp_path):
    """First all pairs in one group; then a log of unknown ids, which must not empty the table."""
    words = log(tmp_path, item_id=list("abcd"), session_id=["s"] * 4)
    ended = sample(tmp_path / "out", shop, words)
    assert ended.code == 0, ended.text
    assert "all 6 pairs are in one style group" in ended.text
    assert len(table_of(spark, tmp_path / "out")) == 6
    ended = sample(tmp_path / "out", shop, log(tmp_path, item_id=["y", "z"], session_id=["s", "s"]))
    assert ended.code == 3
    assert "no pair is left, at least 1 is needed: 'of known items' left 0 of 2" in ended.text
    assert len(table_of(spark, tmp_path / "out")) == 6


def test_an_empty_log_in_parquet_tables(spark, shop, tmp_path):
    """The latest version of a table in Parquet is read, not all of them."""
    words = [shop, "tables.format=parquet"]
    for sessions in (["s"] * 4, ["s", "s", "t", "t"]):
        ended = sample(tmp_path / "out", *words, log(tmp_path, item_id=list("abcd"), session_id=sessions))
        assert ended.code == 0, ended.text
    empty = log(tmp_path, item_id=pa.array([], pa.string()), session_id=pa.array([], pa.string()))
    ended = sample(tmp_path / "out", *words, empty)
    assert ended.code == 3
    assert "no pair is left, at least 1 is needed: the source has no rows; the table pairs stays as it is" in ended.text
    rows = Warehouse(spark, str(tmp_path / "out"), "parquet").pairs.read().collect()
    assert sorted(row["trigger_id"] + row["offer_id"] for row in rows) == ["ab", "cd"]
