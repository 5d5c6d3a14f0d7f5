"""The report from tables: photos of binary columns and of URIs, placeholders for the rest, and never an exception."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from samestyle.report.report import Product
from samestyle.runs import RunFolder
from samestyle.settings import load_settings
from samestyle.tables.night import Night
from samestyle.tables.reporting import choose_triggers, collect_report, one_a_category, write_report
from samestyle.tables.schemas import NEIGHBOURS
from samestyle.tables.schemas import items as items_schema
from samestyle.tables.source import pin_version
from samestyle.tables.turnover import turnover

RUN = "20260102T030405-abcdef"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
JPEG = cv2.imencode(".jpg", np.full((40, 30, 3), 200, np.uint8))[1].tobytes()


def item(item_id, state="fresh", reason=None, image_uri=None, category="Home/Mugs"):
    content = None if state == "rejected" else f"content of {item_id}"
    head = (item_id, content, content, NOW if content else None, state, reason, None, "supplier-1", category, None)
    return (*head, f"title of {item_id}", image_uri, None, NOW, RUN)


def neighbour(item_id, band, neighbour_id, rank=1):
    return ("search", item_id, band, rank, neighbour_id, 0.9, RUN)


@pytest.fixture
def night(spark, tmp_path: Path):
    """A night whose catalogue holds JPEGs in a binary column, with two items and one reject."""
    catalogue = tmp_path / "catalogue"
    rows = [("a", "title", bytearray(JPEG)), ("b", "title", None), ("c", "title", bytearray(b"<html>"))]
    spark.createDataFrame(rows, "item_id string, title string, image binary").write.parquet(str(catalogue))
    settings = load_settings(
        "demo", None, [f"catalogue.path={catalogue}", f"paths.root={tmp_path}", "tables.format=parquet"]
    )
    made = Night(spark, settings, RunFolder(tmp_path / "runs" / RUN), *[SimpleNamespace()] * 3, None, None)
    items = [item("a"), item("b"), item("c", "rejected", "not_an_image")]
    table = made.warehouse.items()
    version = table.overwrite(spark.createDataFrame(items, table.schema), RUN)
    near = [neighbour("a", "same_style", "b"), neighbour("b", "same_style", "a")]
    made.warehouse.neighbours.append(spark.createDataFrame(near, NEIGHBOURS))
    source = {"items_version": version, "source_version": pin_version(spark, settings.catalogue)}
    made.run.write("embed", source | {"mapped": ["item_id", "title", "image"]})
    made.run.write("neighbours", {"rows": {"search": 2}})
    return made


def test_photos_of_a_binary_column(night: Night):
    report = collect_report(night)
    assert report.problems == ()
    photos = {sheet.trigger.item_id: sheet.trigger for sheet in report.sheets}
    decoded = cv2.imdecode(np.frombuffer(photos["a"].photo, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (112, 112, 3)
    assert abs(int(decoded[56, 56, 0]) - 200) < 5
    assert (photos["b"].photo, photos["b"].missing) == (None, "no photo")
    (group,) = report.affected
    assert (group.state, group.reason, group.rows) == ("rejected", "not_an_image", 1)
    assert group.examples[0][0].missing == "not_an_image"


def test_a_catalogue_that_moved_on_shows_no_photos(night: Night):
    night.run.write("embed", night.run.required("embed") | {"source_version": "files-0"})
    report = collect_report(night)
    assert [sheet.trigger.missing for sheet in report.sheets] == ["not shown", "not shown"]
    assert "the catalogue has changed" in report.problems[0]


def test_a_missing_table_costs_its_section_only(night: Night):
    night.run.write("embed", night.run.required("embed") | {"items_version": "gone"})
    path = write_report(night)
    html = path.read_text(encoding="utf-8")
    assert "neighbour sheets: UsageError: version gone" in html
    assert "affected rows: UsageError: version gone" in html


def test_a_run_without_records_and_a_folder_that_cannot_be_written(night: Night, capsys: pytest.CaptureFixture):
    (night.run.path / "embed.json").unlink()
    (night.run.path / "neighbours.json").unlink()
    assert "Not finished" in write_report(night).read_text(encoding="utf-8")
    (night.run.path / "report.html").unlink()
    (night.run.path / "report.html").mkdir()
    assert write_report(night) is None
    assert "no report" in capsys.readouterr().out


def test_turnover_tells_what_came_went_and_differs(spark):
    schema = items_schema("struct<price: double, in_stock: boolean>")
    changed = (
        [("content_key", "other"), ("title", "new title")],
        [("content_key", "other")],
        [("attributes", (9.5, True))],
    )
    old = [with_facts(item(name)) for name in ("went", "title", "photo", "price", "same", "rejected")]
    new = [with_facts(item("came"))] + [
        with_facts(item(name), **dict(change))
        for name, change in zip(("title", "photo", "price"), changed, strict=True)
    ]
    new += [with_facts(item("same")), with_facts(item("rejected", "rejected", "timeout"))]
    before, now = (spark.createDataFrame(rows, schema) for rows in (old, new))
    found = turnover(before, now, lambda rows: [(row, Product(row["item_id"])) for row in rows])
    assert [(c.kind, c.items) for c in found] == [("came", 1), ("went", 2), ("content", 2), ("facts", 1), ("same", 1)]
    told = {product.item_id: detail for change in found for product, detail in change.examples}
    assert told == {
        "came": None,
        "went": None,
        "rejected": None,
        "title": "was: title of title",
        "photo": "another photo",
        "price": "price 2.5 → 9.5",
    }


def with_facts(row: tuple, **changed) -> tuple:
    """An item with a price and a stock, and some fields changed."""
    names = [field.split()[0] for field in items_schema("x").split(",")]
    return tuple((dict(zip(names, row, strict=True)) | {"attributes": (2.5, True)} | changed).values())


def test_triggers_have_same_style_neighbours_first_and_stay_the_same(spark):
    near = [neighbour(f"s{n}", "same_style", "x") for n in range(3)] + [
        neighbour(f"o{n}", "similar", "x") for n in range(9)
    ]
    items = spark.createDataFrame([(f"s{n}", "Mugs") for n in range(3)], "item_id string, category string")
    chosen = choose_triggers(spark.createDataFrame(near, NEIGHBOURS), items)
    again = choose_triggers(spark.createDataFrame(near[::-1], NEIGHBOURS), items)
    assert sorted(chosen[:3]) == ["s0", "s1", "s2"]
    assert len(chosen) == 8
    assert chosen == again


def test_one_of_each_category_comes_before_a_second():
    categories = {"a": "mugs", "b": "mugs", "c": "lamps", "d": None, "e": "mugs", "f": "lamps"}
    assert one_a_category(list("abcdef"), categories) == ["a", "c", "d", "b", "f", "e"]
