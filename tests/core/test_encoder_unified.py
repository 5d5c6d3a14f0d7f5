"""The encoder `unified`: its fusion's file, its views by masking, its features, and what is exported around it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_encoder import IMAGES, TITLES, picture
from torch import Tensor, nn
from unified import random_fusion

from samestyle.encoder.backbones import Half
from samestyle.encoder.export import export_trained, export_unified
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.fusion import Fusion, FusionShape
from samestyle.encoder.runtime import VIEWS, Encoder
from samestyle.encoder.sources import default_kind
from samestyle.encoder.weights import load_fusion, save_fusion
from samestyle.errors import IntegrityError, UsageError

SMALL = FusionShape(image_half=4, text_half=3, image_width=6, text_width=5, width=8, heads=2)


@pytest.fixture(scope="module")
def encoder(unified: Path) -> Encoder:
    return Encoder.load(unified)


@pytest.fixture(scope="module")
def vectors(encoder: Encoder) -> dict[str, np.ndarray]:
    return encoder.encode(TITLES, IMAGES)


def by_torch(fusion: Fusion, encoder: Encoder, row: int, view: str) -> np.ndarray:
    """A row's vector from its features by hand: a hidden side has base 0 and no token that counts."""
    features = {name: torch.from_numpy(array[[row]]) for name, array in vars(encoder.features(TITLES, IMAGES)).items()}
    for side in {"image": ["text"], "text": ["image"], "fused": []}[view]:
        features[side] = torch.zeros_like(features[side])
        features[f"{side}_mask"] = torch.zeros_like(features[f"{side}_mask"])
    with torch.no_grad():
        return fusion(**features)[0].numpy()


@pytest.mark.parametrize(
    ("row", "view"), [(0, "image"), (0, "text"), (0, "fused"), (1, "text"), (1, "fused"), (2, "fused"), (4, "text")]
)
def test_views_are_the_fusion_with_a_side_hidden(
    unified: Path, encoder: Encoder, vectors: dict[str, np.ndarray], row: int, view: str
) -> None:
    fusion, _ = load_fusion(unified / "fusion.safetensors")
    np.testing.assert_allclose(vectors[view][row], by_torch(fusion, encoder, row, view), atol=1e-5)


def test_the_fusion_moves_the_base_by_no_more_than_its_cap(late_fusion: Path, vectors: dict[str, np.ndarray]) -> None:
    base = Encoder.load(late_fusion).encode(TITLES, IMAGES)
    for view in VIEWS:
        rows = base[view].any(axis=1)
        cosines = (base[view] * vectors[view]).sum(axis=1)[rows]
        assert cosines.min() > np.sqrt(1 - 0.45**2) - 1e-4, view
        assert cosines.max() < 0.9999, view


def test_an_untrained_fusion_is_late_fusion(late_fusion: Path, unified: Path, tmp_path: Path) -> None:
    export_trained(tmp_path / "fresh", unified, Fusion(FusionShape()), {})
    found, expected = (Encoder.load(folder).encode(TITLES, IMAGES) for folder in (tmp_path / "fresh", late_fusion))
    for view in VIEWS:
        np.testing.assert_allclose(found[view], expected[view], atol=1e-5)


def test_features_are_what_the_fusion_takes(encoder: Encoder, late_fusion: Path) -> None:
    features = encoder.features(TITLES, IMAGES)
    shapes = {name: array.shape for name, array in vars(features).items()}
    assert shapes == {
        "image": (5, 160),
        "image_tokens": (5, 16, 1280),
        "image_mask": (5, 16),
        "text": (5, 96),
        "text_tokens": (5, 17, 384),
        "text_mask": (5, 17),
    }
    assert {array.dtype for array in vars(features).values()} == {np.dtype(np.float32)}
    assert features.has_image.tolist() == [image is not None for image in IMAGES]
    assert features.has_text.tolist() == [title is not None for title in TITLES]
    # "red mug" is two words between a beginning and an end.
    assert features.text_mask.sum(axis=1).tolist() == [4, 17, 0, 3, 3]
    assert not features.text_tokens[0, 4:].any()
    base = Encoder.load(late_fusion).encode(TITLES, IMAGES)
    np.testing.assert_allclose(features.image, base["image"][:, :160], atol=1e-5)
    np.testing.assert_allclose(features.text, base["text"][:, 160:], atol=1e-5)


def test_features_of_the_baseline_are_refused(late_fusion: Path) -> None:
    with pytest.raises(UsageError, match="gives no tokens, which training a fusion needs: use one of kind unified"):
        Encoder.load(late_fusion).features(TITLES, IMAGES)


def test_many_rows_are_those_of_few(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are encoded in parts, so that their tokens fit into memory."""
    titles = [None if row % 5 == 4 else f"{'very ' * (row % 7)}nice product number {row}" for row in range(12)]
    images = [picture(row) if row % 2 else None for row in range(12)]
    images[4] = picture(4)
    whole = encoder.encode(titles, images)
    monkeypatch.setattr("samestyle.encoder.runtime.ROWS", 5)
    parts = encoder.encode(titles, images, batch_size=2)
    for view in VIEWS:
        lengths = whole[view].any(axis=1)
        np.testing.assert_allclose((whole[view] * parts[view]).sum(axis=1), lengths, atol=1e-5)


def test_a_title_without_a_known_word_is_encoded(encoder: Encoder) -> None:
    found = encoder.encode(["𓀀𓀁𓀂", "鷗"], [None, None])["fused"]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


# --- Exports


def test_the_same_weights_have_the_same_id_whatever_is_told_about_them(unified: Path, tmp_path: Path) -> None:
    assert export_trained(tmp_path / "again", unified, random_fusion(), {}) == EncoderFiles.open(unified).encoder_id
    other = random_fusion(FusionShape(residual_cap=0.4))
    assert export_trained(tmp_path / "again", unified, other, {}) != EncoderFiles.open(unified).encoder_id


def test_a_trained_encoder_keeps_the_graphs_of_its_base(unified: Path, tmp_path: Path) -> None:
    about = {"training": [{"name": "clicks of a shop", "licence": "proprietary"}], "settings": {"steps": 10}}
    encoder_id = export_trained(tmp_path / "trained", unified, random_fusion(seed=1), about)
    base, trained = (EncoderFiles.open(folder).manifest for folder in (unified, tmp_path / "trained"))
    same = {name for name, entry in trained["files"].items() if base["files"].get(name) == entry}
    assert {"image.onnx", "text.onnx", "tokenizer.json"} <= same
    assert not {"fusion.onnx", "fusion.safetensors", "golden.json", "card.md"} & same
    assert trained["base"] == base["encoder_id"] != encoder_id == trained["encoder_id"]
    assert (trained["training"], trained["settings"]) == (about["training"], about["settings"])
    assert load_fusion(tmp_path / "trained" / "fusion.safetensors")[1] == about
    card = (tmp_path / "trained" / "card.md").read_text()
    assert "clicks of a shop" in card
    assert "grocery_store" in card


def test_a_fusion_over_other_backbones_is_refused(unified: Path, tmp_path: Path) -> None:
    with pytest.raises(
        IntegrityError, match=r"takes 4 numbers and tokens of 6 .* image side, which gives 160 and 1280"
    ):
        export_trained(tmp_path / "encoder", unified, Fusion(SMALL), {})
    assert not list(tmp_path.iterdir())


def test_only_a_unified_encoder_is_a_base(late_fusion: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of kind late_fusion, expected unified"):
        export_trained(tmp_path / "encoder", late_fusion, random_fusion(), {})


class Colours(nn.Module):
    """A backbone that sees the colours of the four quarters."""

    token_width = 6

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 6)

    def forward(self, images: Tensor) -> Tensor:
        return self.with_tokens(images)[0]

    def with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        quarters = images.float().unflatten(2, (2, -1)).unflatten(1, (2, -1)).mean((2, 4)).flatten(1, 2)
        tokens = self.layer(quarters / 255)
        return tokens.mean(1), tokens


class Words(nn.Module):
    """A backbone that sees the mean of its words."""

    token_width = 5

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40_000, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.with_tokens(ids, mask)[0]

    def with_tokens(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.table(ids) * mask.unsqueeze(2)
        return tokens.sum(1) / mask.sum(1, keepdim=True), tokens


def small_backbones() -> dict[str, Half]:
    torch.manual_seed(0)
    sides = {"image": (Colours(), 6, 4), "text": (Words(), 5, 3)}
    return {
        side: Half(module, torch.zeros(width), torch.eye(half, width), torch.ones(half))
        for side, (module, width, half) in sides.items()
    }


def test_trained_backbones_are_exported_as_they_are(tmp_path: Path) -> None:
    modules, fusion = small_backbones(), random_fusion(SMALL)
    encoder_id = export_unified(tmp_path / "first", fusion, {}, modules=modules, image_size=32)
    encoder = Encoder.load(tmp_path / "first")
    assert (encoder.dim, encoder.image_size) == (7, 32)
    red, blue = (np.full((32, 32, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    found = encoder.encode(["red", None], [red, blue])
    np.testing.assert_allclose(np.linalg.norm(found["fused"], axis=1), 1, atol=1e-5)

    assert export_unified(tmp_path / "again", fusion, {}, modules=small_backbones(), image_size=32) == encoder_id
    modules["image"].features.layer.weight.data += 0.01
    assert export_unified(tmp_path / "other", fusion, {}, modules=modules, image_size=32) != encoder_id


def test_set_up_exports_the_shipped_fusion_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samestyle.encoder.sources.STARTER", tmp_path / "starter.safetensors")
    assert default_kind() == "late_fusion"
    save_fusion(random_fusion(), tmp_path / "starter.safetensors", {})
    assert default_kind() == "unified"


# --- fusion.safetensors


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "fusion.safetensors"
    save_fusion(random_fusion(SMALL), path, {"trained_on": "nothing"})
    return path


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], Any], **shape: Any) -> None:
    """Change the tensors of a file, and what it says about its shape; None leaves a name out."""
    told = {name: value for name, value in (SMALL.to_dict() | shape).items() if value != "leave out"}
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"shape": json.dumps(told)})


def test_a_fusion_comes_back_in_half_precision(saved: Path) -> None:
    fusion, about = load_fusion(saved)
    assert (fusion.shape, about) == (SMALL, {"trained_on": "nothing"})
    assert {tensor.dtype for tensor in load_file(saved).values()} == {torch.float16}
    for name, tensor in random_fusion(SMALL).state_dict().items():
        torch.testing.assert_close(fusion.state_dict()[name], tensor.half().float())


@pytest.mark.parametrize(
    ("change", "shape", "message"),
    [
        (lambda t: t.pop("out.weight"), {}, r"out\.weight is missing, its shape demands \(7, 8\)"),
        (lambda t: t.update(extra=torch.ones(1)), {}, r"extra is \(1,\), its shape demands no such tensor"),
        (lambda t: t.update({"cls": torch.ones(9)}), {}, r"cls is \(9,\), its shape demands \(8,\)"),
        (lambda t: t["cls"].fill_(float("nan")), {}, "8 of 8 numbers of cls are not finite, expected none"),
        (lambda t: t["cls"][0].fill_(float("inf")), {}, "1 of 8 numbers of cls"),
        (lambda t: None, {"text_half": 5}, r"base_in\.weight is \(8, 7\), its shape demands \(8, 9\)"),
        (lambda t: None, {"text_half": "leave out"}, r"the shape is .*, expected .*'text_half': 96"),
        (lambda t: None, {"layers": 10**9}, "the shape is"),
        (lambda t: None, {"width": 10**9}, "the shape is"),
        (lambda t: None, {"heads": 3}, "the shape is"),
        (lambda t: None, {"residual_cap": "high"}, "the shape is"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    saved: Path, change: Callable[[dict[str, Tensor]], Any], shape: dict[str, Any], message: str
) -> None:
    rewrite(saved, change, **shape)
    with pytest.raises(IntegrityError, match=message):
        load_fusion(saved)


@pytest.mark.parametrize("how", ["pickle", "cut off", "other metadata", "empty"])
def test_foreign_bytes_are_refused(saved: Path, how: str) -> None:
    data = saved.read_bytes()
    if how == "pickle":
        torch.save({"out.weight": torch.ones(2)}, saved)
    elif how == "other metadata":
        save_file({"out.weight": torch.ones(2)}, saved)
    else:
        saved.write_bytes(data[: len(data) // 2] if how == "cut off" else b"")
    with pytest.raises(IntegrityError, match="holds no weights of this project"):
        load_fusion(saved)


def test_weights_that_half_precision_cannot_hold_are_not_written(tmp_path: Path) -> None:
    fusion = random_fusion(SMALL)
    fusion.out.bias.data[0] = 1e6
    with pytest.raises(IntegrityError, match=r"1 of 7 numbers of out\.bias are not finite"):
        save_fusion(fusion, tmp_path / "fusion.safetensors", {})
    assert not list(tmp_path.iterdir())


# --- Folders


def test_a_unified_encoder_without_its_fusion_is_refused(unified: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(unified, tmp_path / "copy"))
    manifest = json.loads((copy / "encoder.json").read_text())
    del manifest["files"]["fusion.onnx"]
    (copy / "encoder.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=r"lists no fusion\.onnx"):
        Encoder.load(copy)
