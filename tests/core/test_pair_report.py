"""The report of sample_pairs: what stands on the page, and that nothing of a catalogue becomes markup."""

from samestyle.report.pairs import PairReport, PairSheet, ShownPair, histogram, render_pairs
from samestyle.report.report import Product

STEPS = [
    ("of the window", 900, 900, "clicks", "clicks.window_days=30", ""),
    ("the same leaf category", 1234, 1234, "pairs", "", "no column category"),
    ("similar as a whole", 1234, 56, "pairs", "pairs.fused_min=0.7", ""),
]
TRUTH = {
    "pairs": 56,
    "precision": 0.9375,
    "recall_of_clicked": 0.25,
    "recall_of_catalogue": 0.1,
    "group_precision": 0.8,
}


def record(**changed):
    names = ("rule", "rows_in", "rows_out", "unit", "setting", "skipped")
    return {
        "facts": "release r1",
        "funnel": [dict(zip(names, step, strict=True)) for step in STEPS],
        "pairs": 56,
        "splits": {"train": 40, "validation": 10, "test": 6},
        "items": 70,
        "groups": 30,
        "largest_group": 5,
        "truth": TRUTH,
        "notes": [],
    } | changed


def test_the_page_shows_funnel_truth_and_splits():
    page = render_pairs(PairReport("sample_pairs-1", record()))
    assert "56 pairs in 30 style groups" in page
    assert "release r1" in page
    assert "1,234" in page
    assert "skipped: no column category" in page
    assert "pairs.fused_min=0.7" in page
    assert "93.8 %" in page


def test_without_true_styles_there_is_no_word_of_them():
    page = render_pairs(PairReport("sample_pairs-1", record(truth=None)))
    assert "true styles" not in page
    assert "precision" not in page


def test_sheets_name_the_rule_that_refused_and_escape_titles():
    hostile = Product("item-1", "<script>alert(1)</script>", None, "Home/Mugs", None, "not_found")
    shown = ShownPair(hostile, Product("item-2", "mug"), 3, 0.41, 0.625, False)
    page = render_pairs(PairReport("r", record(), (), (PairSheet("similar as a whole", 1178, (shown,), True),)))
    assert "by the rule: similar as a whole · 1,178 pairs" in page
    assert "3 visits" in page
    assert "titles 0.41" in page
    assert "whole 0.62" in page
    assert "two styles" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_histogram_is_the_same_svg_for_the_same_bars():
    bars = [("2", 90), ("3", 20), ("4-8", 0)]
    first = histogram(bars, "offers of a group", "style groups")
    assert first.startswith(b"<?xml")
    assert first == histogram(bars, "offers of a group", "style groups")
    assert first != histogram(bars[:2], "offers of a group", "style groups")
