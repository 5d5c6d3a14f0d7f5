"""The report's page, from plain data: whatever is missing or hostile, it is one file, readable and harmless."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from samestyle.report.charts import recall_curves, shard_sizes, threshold_curve
from samestyle.report.report import Affected, Change, Neighbour, Product, Report, Sheet, plain, render
from samestyle.report.trend import drift, spark

RUN = "20260102T030405-abcdef"
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "nul \x00 escape \x1b[31m",
    "half a pair \ud800",
    "right \u202eto left\u202d",
    "عنوان المنتج",
    "x" * 10_000,
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
INDEX = {
    "module": "search",
    "view": "fused",
    "shard_rows": 5,
    "shards": [
        {"items": 6, "nodes": 5, "orphans": 0, "graph": {"bytes": 1_500_000}, "items_file": {"bytes": 500_000}},
        {"items": 4, "nodes": 4, "orphans": 1, "graph": {"bytes": 1_000_000}, "items_file": {"bytes": 0}},
    ],
}
for number, dead in enumerate((0.2, 0.0)):
    INDEX["shards"][number] |= {"shard": number, "dead_share": dead}
MEASURED = {
    "module": "search",
    "view": "fused",
    "ef_search": 20,
    "recall": {"k": 10, "value": 0.97, "low": 0.94, "high": 0.99, "queries": 500},
    "recall_curve": [
        {"ef": 10, "recall": 0.93},
        {"ef": 20, "recall": 0.97, "compared": 1234.4},
        {"ef": 40, "recall": 0.99},
    ],
    "recall_slices": [{"by": "queries", "name": "clicked", "value": 0.96, "low": 0.9, "high": 0.98, "queries": 166}]
    + [
        {"by": "category", "name": f"Home/{n}", "value": n / 10, "low": 0.0, "high": 0.2 + n / 10, "queries": 7}
        for n in range(6)
    ],
    "shard_recalls": [{"shard": 0, "recall": 0.95, "recall_low": 0.93, "recall_high": 0.97}],
}
COUNTS = {"read": 10, "fresh": 4, "reused": 2, "stale": 1, "degraded": 1, "rejected": 2, "deleted": 3}
SECTION_IDS = {
    *("ledger", "neighbours", "indexes", "slices", "styles", "thresholds", "gate", "affected", "timings", "run"),
    *("settings", "notes"),
}
BEFORE = {
    "release_id": "release-0",
    "created_at": "2026-01-01T03:04:05+00:00",
    "counts": {**COUNTS, "read": 9, "rejected": 2},
    "items": {"search": 7},
    "recall": {"search/fused": {**MEASURED["recall"], "value": 0.98}},
    "same_style_r1": {"image": 0.8},
    "timings_s": {"embed": 30.0, "build_index": 65.0},
    "switched": [["demo.day", 1, 2], ["encoder", "enc-0", "enc-1"]],
}


class Page(HTMLParser):
    """What a browser would make of a page: tags with their attributes, section ids, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags[-1:] != [("style", {})]:
            self.text += f"{data} "

    def ids(self) -> set[str | None]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}

    def words(self) -> str:
        return " ".join(self.text.split())


def gate_result(rule: str, passed: bool, sentence: str) -> dict:
    return {"rule": rule, "passed": passed, "value": 0.94, "limit": 0.9, "sentence": sentence}


def summary(**facts) -> dict:
    ended = {"started_at": "2026-01-02T03:04:05+00:00", "ended_at": "2026-01-02T03:06:10+00:00"}
    return {"run_id": RUN, "outcome": "done", "exit_code": 0, "error": None, **ended, "notes": [], **facts}


def records() -> dict:
    """Those of a night that published."""
    recall = {"search/fused": MEASURED["recall"]}
    return {
        "start": {"source_version": "files-1", "encoder_id": "enc-1", "settings_digest": "d1", "parent": "release-0"},
        "embed": {"counts": COUNTS, "attempted": 8, "contents_embedded": 5},
        "build_index": {"indexes": [INDEX], "notes": []},
        "evaluate_index": {
            "indexes": [MEASURED],
            "style_recall": {"image": {"value": 0.8, "low": 0.7, "high": 0.9, "queries": 100}},
            "thresholds": {"same_style": 0.79, "similar": 0.5, "duplicate": 0.95, "calibrated": True},
            "threshold_sentence": "thresholds: same_style from 0.79, calibrated on styles of the catalogue",
        },
        "gate": {"results": [gate_result("recall search/fused", True, "recall is fine")]},
        "timings": {"embed": 60.0, "build_index": 65.0},
        "summary": summary(
            release_id="release-1",
            channel="current",
            counts=COUNTS,
            contents_embedded=5,
            recall=recall,
            notes=["module history skipped: it needs a click log"],
        ),
    }


@cache
def chart() -> bytes:
    return recall_curves([MEASURED], 0.9)


def photo(seed: int = 0, size: int = 112) -> bytes:
    """Noise: the largest JPEG that a thumbnail can become."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def full_report(title: str = "A red mug", records: dict = records()) -> Report:  # noqa: B008 (never changed)
    mug = Product("item-1", title, "supplier-1", "Home/Mugs", photo())
    other = Product("item-2", "Another red mug", "supplier-2", "Home/Mugs", None, "timeout")
    return Report(
        RUN,
        records,
        settings="env: demo\npaths:\n  root: data\n",
        code_version="0.1.0",
        recall_chart=chart(),
        shard_chart=shard_sizes([INDEX]),
        affected=(Affected("rejected", "truncated", 2, ((Product("item-3", title, missing="truncated"), "5 bytes"),)),),
        sheet_module="search",
        sheets=(Sheet(mug, (Neighbour("same_style", 0.91, other), Neighbour("duplicate", 0.99, mug))),),
    )


def test_a_night_that_published_has_every_section():
    page = Page(render(full_report()))
    words = page.words()
    assert page.ids() == SECTION_IDS
    assert "Published Release release-1 is what channel current names now." in words
    assert "10 read = 4 fresh + 2 reused + 1 stale + 1 degraded + 2 rejected" in words
    assert "adds up" in words
    assert "same_style from 0.79, calibrated on styles of the catalogue. band lowest score same_style 0.79" in words
    assert "3 deleted since the parent release 8 contents attempted 5 contents embedded" in words
    assert "search/ fused 0.9700 0.940 to 0.990, 500 queries 10 9 2 3.0 1 20 1,234" in words
    assert "queries clicked 0.9600 0.900 to 0.980 166 category Home/0 0.0000 0.000 to 0.200 7" in words
    assert "shard 0 0.9500 0.930 to 0.970 500 3 categories are found better" in words
    assert "Home/3" not in words
    assert "image 0.800 0.700 to 0.900, 100 queries" in words
    assert "passed recall search/fused 0.9400 0.9000 recall is fine" in words
    assert "rejected truncated · 2 rows" in words
    assert "Same style, other suppliers timeout 0.91 Another red mug supplier-2" in words
    assert "Duplicates, same supplier 0.99 A red mug supplier-1" in words
    assert "module history skipped" in words
    assert "took 2:05 min" in words
    assert "embed 1:00 min build_index 1:05 min" in words


def compared() -> Report:
    """A night with a parent and two nights before that."""
    made = records() | {"before": BEFORE, "nights": [{"summary": BEFORE, "gate": {"centroid image": 0.01}}] * 2}
    made["summary"] |= {"items": {"search": 8}, "same_style_r1": {"image": 0.8}, "timings_s": made["timings"]}
    made["gate"]["results"] = [
        {"rule": "recall search/fused", "passed": True, "value": 0.94, "limit": 0.9, "sentence": "recall is fine"},
        {"rule": "centroid image", "passed": True, "value": 0.02, "limit": 0.25, "sentence": "its shift"},
        {"rule": "growth search", "passed": True, "value": 1.0, "limit": 1.0, "sentence": "the share that came"},
        {"rule": "neighbours search", "passed": False, "value": 0.4, "limit": 0.5, "sentence": "found again"},
        {"rule": "style image against parent", "passed": True, "value": 0.0, "limit": 0.2, "sentence": "lost"},
    ]
    busy = {"read": 0.5, "forward": 8.0}
    made["throughput"] = {"rows": 50, "seconds": 10.0, "busy_s": busy, "limited_by": "forward"}
    mug, lamp = Product("item-1", "A red mug"), Product("item-2", "A lamp")
    changes = (Change("came", 2, ((mug, None),)), Change("facts", 1, ((lamp, "price 2 → 3"),)), Change("same", 5))
    sheet = Sheet(mug, (Neighbour("same_style", 0.9, lamp),), frozenset({"item-2"}), (Neighbour("similar", 0.6, mug),))
    return Report(RUN, made, changes=changes, sheets=(sheet, Sheet(lamp, (), frozenset(), ())))


def test_a_night_beside_its_parent():
    page = Page(render(compared()))
    words = page.words()
    assert {"changes", "drift"} <= page.ids()
    assert "problems" not in page.ids()
    assert "Against release release-0, which this run started from." in words
    assert "2 new or served again 1 another price, stock, category or supplier 5 as they were" in words
    assert "A lamp item-2 price 2 → 3" in words
    assert "catalogue rows 9 10 +1 items of search 7 8 +1 recall@10 search/fused 0.9800 0.9700 −0.0100" in words
    assert "time of all stages 1:35 min 2:05 min +30 s" in words
    assert "As before: rows stale, rows degraded, rows rejected, same-style R@1 image." in words
    assert "demo.day 1 → 2 encoder enc-0 → enc-1" in words


def test_drift_names_what_is_beyond_its_limit_first():
    words = Page(render(compared())).words()
    assert "beyond share of the parent's neighbours found again, search 0.4000 0.5000 within share that came" in words
    assert "within same-style R@1 image that was lost 0 0.2000" in words
    measures = drift(compared().records)
    assert [one.used for one in measures] == [1.0, 1.0, pytest.approx(0.08), 0.0]
    assert [one.trend for one in measures[:3]] == [(0.4,), (1.0,), (0.01, 0.01, 0.02)]


def test_neighbours_that_came_and_went_are_marked():
    words = Page(render(compared())).words()
    assert "A red mug item-1 1 new, 1 gone Same style, other suppliers no photo 0.90 new A lamp" in words
    assert "Similar no photo 0.60 gone A red mug" in words
    assert "A lamp item-2 as before No neighbours." in words


def test_the_engine_names_the_queue_that_limits():
    words = Page(render(compared())).words()
    assert "embed 1:00 min · 30 s before build_index 1:05 min · 1:05 min before" in words
    assert "50 contents in 10 s: 5.0 a second, limited by forward." in words
    assert "read 0.5 s forward 8.0 s" in words


def test_a_trend_is_drawn_from_three_nights_on():
    assert spark([1, 2]) == ""
    assert spark([1, 2, 3]) == "0.0,20.0 50.0,11.0 100.0,2.0"
    assert spark([5, 5, 5]) == "0.0,20.0 50.0,20.0 100.0,20.0"
    lines = [attributes["points"] for tag, attributes in Page(render(compared())).tags if tag == "polyline"]
    assert lines[0] == "0.0,20.0 50.0,20.0 100.0,2.0"  # catalogue rows: 9, 9, 10


def test_the_page_needs_nothing_else():
    html = render(full_report())
    page = Page(html)
    assert "http://" not in html
    assert "https://" not in html
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form", "a"}
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert len(sources) == 4  # the trigger, its duplicate, two charts
    assert all(source.startswith("data:image/") for source in sources)
    assert any(
        a.get("http-equiv") == "Content-Security-Policy" and "default-src 'none'" in a["content"] for _, a in page.tags
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str):
    def page_with(text: str) -> tuple[str, Page]:
        made = records()
        made["summary"] |= {"outcome": "failed", "error": f"{text}\n{text}", "notes": [text], "source": text}
        made["gate"]["results"][0] |= {"sentence": text}
        made["before"] = BEFORE | {"switched": [[text, text, text]]}
        changes = (Change("facts", 1, ((Product(text, text, text, text), text),)),)
        report = replace(full_report(text, made), settings=text, problems=(text,), sheet_module=text, changes=changes)
        html = render(report)
        return html, Page(html)

    html, page = page_with(text)
    # The same markup as with a harmless text; only what is said differs, not what a browser does.
    assert [(tag, list(a)) for tag, a in page.tags] == [(tag, list(a)) for tag, a in page_with("A red mug")[1].tags]
    assert not CONTROL.search(html)
    html.encode("utf-8")
    assert plain(text, 60)[:59] in page.words()


def test_long_text_is_cut():
    long, short = (len(render(full_report("x" * count))) for count in (10_000, 200))
    assert long == short


def test_titles_are_cut_and_cleaned():
    assert plain("a\x00b\r\nc", 20) == "a b c"
    assert plain("x" * 10_000, 20) == "x" * 19 + "…"
    assert plain("x" * 20, 20) == "x" * 20
    assert plain(None) == ""


def test_a_run_that_failed_early_says_why_and_what_serves():
    early = {
        "start": {"parent": "release-0", "source_version": "files-1", "encoder_id": "enc-1"},
        "summary": summary(outcome="failed", exit_code=5, error="cannot read shop.items: no such table\n at java.lang"),
    }
    page = Page(render(Report(RUN, early)))
    assert page.ids() == {"run"}
    assert "Failed (exit code 5) cannot read shop.items: no such table Release release-0 keeps serving." in page.words()
    assert "at java.lang" in page.text


def test_a_refused_night_names_the_rules_first():
    refused = records()
    refused["gate"]["results"].append(gate_result("orphans search/fused", False, "1 vector cannot be found"))
    refused["summary"] = summary(outcome="refused", exit_code=3, error="x", gate_refused=["1 vector cannot be found"])
    words = Page(render(full_report(records=refused))).words()
    assert "Refused by the gate 1 vector cannot be found Release release-0 keeps serving." in words
    assert "1 of 2 rules passed." in words
    assert words.index("refused orphans search/fused") < words.index("passed recall search/fused")


@pytest.mark.parametrize(
    ("stages", "refuser"),
    [
        ((), "the preflight"),
        (("evaluate_index",), "the budget of searches"),
        (("evaluate_index", "neighbours"), "the gate"),
    ],
)
def test_who_refused_follows_from_how_far_it_came(stages, refuser):
    told = {stage: {} for stage in stages} | {"summary": summary(outcome="refused", error="why")}
    assert f"Refused by {refuser} why" in Page(render(Report(RUN, told))).words()


def test_the_curve_of_thresholds_is_an_svg_with_what_was_chosen():
    points = [
        {"threshold": 0.7 + n / 100, "pairs": 100 - n, "precision": 0.6 + n / 100, "recall": 1 - n / 50}
        for n in range(30)
    ]
    picture = threshold_curve(points, 0.85, 0.9).decode()
    assert picture == threshold_curve(points, 0.85, 0.9).decode()
    assert all(label in picture for label in ("precision", "recall", "threshold 0.85", "precision wanted"))


def test_a_refused_preflight_gives_its_sentence():
    refused = {
        "start": {"parent": None},
        "summary": summary(outcome="refused", exit_code=3, error="the catalogue is empty"),
    }
    words = Page(render(Report(RUN, refused))).words()
    assert "Refused by the preflight the catalogue is empty No release was there before, so nothing serves." in words


def test_a_forced_release_says_so():
    forced = records()
    forced["summary"] |= {"forced": "sale starts", "gate_refused": ["1 vector cannot be found"]}
    words = Page(render(full_report(records=forced))).words()
    assert "Published by force" in words
    assert "Reason given: sale starts 1 vector cannot be found" in words


def test_sums_that_do_not_add_up_are_shown():
    wrong = records()
    wrong["embed"] = {**wrong["embed"], "counts": {**COUNTS, "read": 11}}
    assert "does not add up" in Page(render(full_report(records=wrong))).words()


def test_a_section_that_cannot_be_made_costs_only_itself():
    broken = records()
    broken["embed"] = {"counts": {}}
    page = Page(render(full_report(records=broken)))
    assert page.ids() == SECTION_IDS - {"ledger"} | {"problems"}
    assert "ledger: the run's records are not as expected (KeyError: 'read')" in page.words()


def test_no_records_at_all():
    page = Page(render(Report(RUN, {})))
    assert "Not finished" in page.words()
    assert page.ids() == {"run"}


def test_products_without_photo_title_and_supplier_have_a_tile():
    bare = Product(None, None, missing="no photo")
    html = render(
        Report(RUN, {}, sheets=(Sheet(bare, ()),), affected=(Affected("rejected", "no_item_id", 1, ((bare, None),)),))
    )
    words = Page(html).words()
    assert "no photo no title no id No neighbours." in words


def test_the_largest_report_stays_below_three_megabytes():
    tiles = [Product(f"item-{n}", "t" * 500, "s" * 500, None, photo(n)) for n in range(15)]
    sheet = Sheet(tiles[0], tuple(Neighbour("similar", 0.5, tile) for tile in tiles))
    groups = tuple(
        Affected("rejected", f"reason-{n}", 9, tuple((tile, "d" * 500) for tile in tiles[:6])) for n in range(12)
    )
    html = render(Report(RUN, records(), sheets=(sheet,) * 8, affected=groups, recall_chart=chart()))
    assert len(html.encode()) < 3_000_000


def test_the_recall_chart_is_the_same_every_time():
    image = MEASURED | {"view": "image", "ef_search": 10}
    first, second = (recall_curves([MEASURED, image], 0.9) for _ in range(2))
    assert first == second
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert b"search/fused" in first
    assert b"search/image" in first


@pytest.mark.parametrize("shards", [1, 3, 1700])
def test_the_chart_of_shards_is_small_however_many_there_are(shards):
    own = [{"nodes": 100 + n, "dead_share": n / (2 * shards)} for n in range(shards)]
    drawn = [{"module": "search", "view": view, "shards": own, "shard_rows": 2000} for view in ("fused", "image")]
    first, second = shard_sizes(drawn), shard_sizes(drawn)
    assert first == second
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert f"search/image · {shards:,} shard".encode() in first
    assert len(first) < 250_000


def test_a_run_of_a_former_version_has_no_slices():
    former = records()
    former["evaluate_index"]["indexes"] = [
        {k: v for k, v in MEASURED.items() if k not in ("recall_slices", "shard_recalls")}
    ]
    page = Page(render(replace(full_report(records=former), shard_chart=None)))
    assert page.ids() == SECTION_IDS - {"slices"}


def test_the_room_needs_no_spark():
    code = "import sys; sys.modules['pyspark'] = None; import samestyle.report.report, samestyle.report.sheets"
    subprocess.run([sys.executable, "-c", code], check=True)
