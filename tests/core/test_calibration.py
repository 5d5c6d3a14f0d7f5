"""Calibration without labels: what is fitted, what stays, and the encoder that comes out."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from samestyle.encoder.calibration import (
    Calibration,
    check_calibratable,
    export_calibrated,
    fit_calibration,
    pooled_features,
)
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.runtime import Encoder
from samestyle.encoder.sources import TRANSFORM
from samestyle.encoder.transform import from_bytes, metadata
from samestyle.errors import UsageError

TITLES = [
    f"{colour} {thing}, {size} cm" for colour in ("red", "blue") for thing in ("mug", "lamp") for size in range(130)
]


@pytest.fixture(scope="module")
def features() -> dict[str, np.ndarray]:
    """520 titles, one of them twice, and one photo."""
    photo = np.full((224, 224, 3), 200, np.uint8)
    return pooled_features([(TITLES[0], photo), (None, photo), *((title, None) for title in TITLES)])


@pytest.fixture(scope="module")
def calibration(features: dict[str, np.ndarray]) -> Calibration:
    return fit_calibration(features, "my shop")


def test_a_side_with_too_few_samples_keeps_its_projection(
    features: dict[str, np.ndarray], calibration: Calibration
) -> None:
    assert {side: rows.shape for side, rows in features.items()} == {"image": (1, 2224), "text": (520, 384)}
    assert calibration.counts == {"text": 520}
    assert list(calibration.kept) == ["image"]
    assert "1 distinct samples were found, expected at least 640" in calibration.kept["image"]
    fitted, packaged = from_bytes(calibration.data), from_bytes(TRANSFORM.read_bytes())
    np.testing.assert_array_equal(fitted["image"].components, packaged["image"].components)
    np.testing.assert_array_equal(fitted["image"].scales, packaged["image"].scales)
    assert not np.allclose(fitted["text"].components, packaged["text"].components, atol=0.1)
    told = metadata(calibration.data)["fitted_on"]
    assert told == metadata(TRANSFORM.read_bytes())["fitted_on"] + "; my shop (your own): calibrated on 520 titles"


def test_the_same_catalogue_gives_the_same_bytes(features: dict[str, np.ndarray], calibration: Calibration) -> None:
    assert fit_calibration(features, "my shop").data == calibration.data


def test_too_small_a_catalogue_is_refused(features: dict[str, np.ndarray]) -> None:
    small = {"image": features["image"], "text": features["text"][:383]}
    with pytest.raises(
        UsageError, match=r"image: 1 distinct .* text: 383 distinct samples were found, expected at least 384"
    ):
        fit_calibration(small, "my shop")


# The unified one is late_fusion and a fusion over it, which has to stay.
@pytest.mark.parametrize("kind", [pytest.param("late_fusion", marks=pytest.mark.soak), "unified"])
def test_the_calibrated_encoder_is_another_one(
    kind: str, calibration: Calibration, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = EncoderFiles.open(request.getfixturevalue(kind))
    encoder_id = export_calibrated(tmp_path / "calibrated", base, calibration)
    files = EncoderFiles.open(tmp_path / "calibrated")
    assert encoder_id == files.encoder_id != base.encoder_id
    assert files.manifest["identity"].get("fusion") == base.manifest["identity"].get("fusion")
    assert "my shop" in (tmp_path / "calibrated" / "card.md").read_text()
    check_calibratable(files)  # it may be calibrated again, from where this one began
    photo = np.full((224, 224, 3), 200, np.uint8)
    before, after = (Encoder.load(one.folder).encode(["red mug", None], [None, photo]) for one in (base, files))
    np.testing.assert_allclose(after["image"], before["image"], atol=1e-6)
    assert (after["text"][0] * before["text"][0]).sum() < 0.9


def with_identity(files: EncoderFiles, **identity: object) -> EncoderFiles:
    manifest = json.loads(json.dumps(files.manifest))
    manifest["identity"].update(identity)
    return dataclasses.replace(files, manifest=manifest)


def test_only_the_packaged_projection_is_calibrated(late_fusion: Path) -> None:
    base = EncoderFiles.open(late_fusion)
    check_calibratable(base)
    sources = base.manifest["identity"]["sources"]
    with pytest.raises(UsageError, match="kind dual_stream, expected unified or late_fusion"):
        check_calibratable(with_identity(base, kind="dual_stream"))
    with pytest.raises(UsageError, match="has image_weights of its own"):
        check_calibratable(with_identity(base, sources=sources | {"image_weights": "0" * 64}))
    foreign = with_identity(base, sources=sources | {"transform": "0" * 64})
    foreign.manifest["fitted_on"] = "another shop (MIT): 600 photos"
    with pytest.raises(UsageError, match="has a projection of its own"):
        check_calibratable(foreign)
