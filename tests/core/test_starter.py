"""The training of the fusion that the project ships: what it says of itself."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")

from samestyle.encoder.fusion import Fusion, FusionShape
from samestyle.encoder.sources import STARTER
from samestyle.encoder.weights import load_fusion
from samestyle.training.features import Features
from samestyle.training.starter import Catalogue, _read, quality

SHAPE = FusionShape(image_half=10, text_half=2, image_width=6, text_width=5, width=8, heads=2)
STYLES, VENDORS = 10, ("google", "fluent3d")


def write_emoji(folder: Path) -> Catalogue:
    """Each of ten emoji from two vendors, whose titles say nothing."""
    rows = [(f"{vendor} {style}", vendor, f"style {style}") for style in range(STYLES) for vendor in VENDORS]
    table = pa.table(
        {
            "item_id": [name for name, _, _ in rows],
            "title": [f"picture {row}" for row in range(len(rows))],
            "image": [name.encode() for name, _, _ in rows],
            "supplier_id": [vendor for _, vendor, _ in rows],
            "group_id": [style for _, _, style in rows],
        }
    )
    pq.write_table(table, folder / "emoji_multivendor.parquet")
    return _read(folder, "emoji_multivendor")


def features_of_styles() -> Features:
    """A photo's vector is its style, a title's is that of all titles."""
    rows = 2 * STYLES
    image = np.repeat(np.eye(STYLES, dtype=np.float32), 2, axis=0)[None]
    text = np.tile(np.array([1, 0], np.float32), (rows, 1))
    tokens, words = np.ones((1, rows, 16, 6), np.float16), np.ones((rows, 5), np.float16)
    return Features(image, tokens, np.ones(rows, bool), text, words, np.arange(rows + 1))


def test_the_card_tells_what_was_measured_on_the_styles_that_were_held_out(tmp_path: Path) -> None:
    """Four of ten: a photo finds its style first, a title one of four by chance, each with its 95 % interval."""
    catalogue = write_emoji(tmp_path)
    assert catalogue.held.sum() == 8
    (found,) = quality(Fusion(SHAPE).eval(), features_of_styles(), [catalogue], tmp_path)
    assert found["name"] == "emoji, google -> fluent3d"
    assert found["metrics"]["i-i"]["recall@1"] == [1, 1, 1]
    assert found["metrics"]["t-t"]["recall@1"] == [0.25, 0.25, 0.25]


def test_a_catalogue_without_a_protocol_is_not_measured(tmp_path: Path) -> None:
    catalogue = write_emoji(tmp_path)
    one_of_a_kind = Catalogue("retail_demo_store", *list(vars(catalogue).values())[1:])
    assert quality(Fusion(SHAPE).eval(), features_of_styles(), [one_of_a_kind], tmp_path) == []


def test_the_shipped_fusion_says_how_good_it_is() -> None:
    about = load_fusion(STARTER)[1]
    luma = {entry["name"]: entry["metrics"] for entry in about["quality"]}["luma, style"]["i-i"]
    value, low, high = luma["recall@1"]
    assert 0.6 < low < value < high < 0.9
