"""Exported checkpoints give what transformers itself gives for them, and foreign or broken ones are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from samestyle.encoder.dual_stream import export_dual_stream, export_headed
from samestyle.encoder.export import main
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.head import Head, load_head, save_head
from samestyle.encoder.runtime import VIEWS, Encoder
from samestyle.errors import IntegrityError, UsageError

TITLES = ["a red mug", "lamp", "A blue chair of wood, a blue chair of wood, a blue chair of wood", "mug unknown"]
FULL_LENGTH = {"siglip": "max_length", "clip": True, "align": True}


def pictures(size: int, count: int = 4) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8))


@pytest.fixture(scope="module", params=sorted(checkpoints.FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, family: str) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / family
    checkpoints.FAMILIES[family](folder)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, saved: Path) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "encoder"
    export_dual_stream(folder, saved)
    return folder


@pytest.fixture(scope="module")
def encoder(exported: Path) -> Encoder:
    return Encoder.load(exported)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "clip"
    checkpoints.save_clip(folder)
    return folder


@pytest.fixture
def copy(clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip, tmp_path / "clip"))


def features_of_transformers(folder: Path, family: str, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Photos and TITLES by the checkpoint's own model, tokenizer and image processor, scaled to length 1."""
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    pixels = processor(images=images, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
    length = min(model.config.text_config.max_position_embeddings, 64)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokens = tokenizer(TITLES, padding=FULL_LENGTH[family], max_length=length, truncation=True, return_tensors="pt")
    mask = None if family == "siglip" else tokens["attention_mask"]
    with torch.inference_mode():
        image = model.get_image_features(pixel_values=pixels).pooler_output
        text = model.get_text_features(input_ids=tokens["input_ids"], attention_mask=mask).pooler_output
    return F.normalize(image).numpy(), F.normalize(text).numpy()


def test_vectors_equal_those_of_transformers(saved: Path, encoder: Encoder, family: str) -> None:
    images = pictures(encoder.image_size)
    image, text = features_of_transformers(saved, family, images)
    found = encoder.encode(TITLES, images)
    np.testing.assert_allclose(found["image"], image, atol=1e-4)
    np.testing.assert_allclose(found["text"], text, atol=1e-4)
    fused = (image + text) / np.linalg.norm(image + text, axis=1, keepdims=True)
    np.testing.assert_allclose(found["fused"], fused, atol=2e-4)
    # Or the comparison would say nothing.
    assert np.abs(image @ image.T - np.eye(4)).max() < 0.999
    assert np.abs(text @ text.T - np.eye(4)).max() < 0.999


def test_pictures_have_the_size_that_the_checkpoint_was_made_for(encoder: Encoder, family: str) -> None:
    assert encoder.image_size == {"clip": 32, "siglip": 40, "align": 48}[family]
    assert encoder.dim == {"clip": 24, "siglip": 32, "align": 24}[family]


def test_neighbours_in_the_batch_do_not_matter(encoder: Encoder) -> None:
    images = pictures(encoder.image_size)
    together = encoder.encode(TITLES, images)
    alone = [encoder.encode([title], [image]) for title, image in zip(TITLES, images, strict=True)]
    for view in VIEWS:
        cosines = (np.concatenate([rows[view] for rows in alone]) * together[view]).sum(axis=1)
        assert cosines.min() > 0.99999


def test_the_fused_vector_of_a_lone_modality_is_that_view(encoder: Encoder) -> None:
    image, *_ = pictures(encoder.image_size)
    found = encoder.encode([None, "a red mug"], [image, None])
    np.testing.assert_array_equal(found["fused"], found["image"] + found["text"])
    assert not found["image"][1].any()
    assert not found["text"][0].any()


def test_old_clip_checkpoints_read_their_highest_token(tmp_path: Path) -> None:
    checkpoints.save_clip(tmp_path / "old", eos_token_id=2)
    export_dual_stream(tmp_path / "encoder", tmp_path / "old")
    encoder = Encoder.load(tmp_path / "encoder")
    images = pictures(encoder.image_size)
    _, text = features_of_transformers(tmp_path / "old", "clip", images)
    np.testing.assert_allclose(encoder.encode(TITLES, images)["text"], text, atol=1e-4)


def test_features_are_the_two_vectors_alone(encoder: Encoder) -> None:
    image, *_ = pictures(encoder.image_size)
    found, vectors = (ask(["a red mug", None], [None, image]) for ask in (encoder.features, encoder.encode))
    for side in ("image", "text"):
        np.testing.assert_allclose(getattr(found, side), vectors[side], atol=1e-6)
        assert getattr(found, f"{side}_tokens").shape == (2, 1, 0)
    assert found.has_image.tolist() == [False, True]
    assert found.has_text.tolist() == [True, False]


def test_an_untrained_head_is_the_normalised_sum_and_a_trained_one_is_not(clip: Path, tmp_path: Path) -> None:
    export_dual_stream(tmp_path / "sum", clip)
    head = Head(24)
    save_head(head, tmp_path / "head.safetensors", {})
    export_dual_stream(tmp_path / "untrained", clip, tmp_path / "head.safetensors")
    with torch.no_grad():
        head.gate.bias.copy_(torch.linspace(-3, 3, 24).half())
    save_head(head, tmp_path / "head.safetensors", {"training": [{"name": "shop", "licence": "CC0-1.0"}]})
    export_dual_stream(tmp_path / "trained", clip, tmp_path / "head.safetensors")

    images = pictures(32)
    found = {name: Encoder.load(tmp_path / name).encode(TITLES, images) for name in ("sum", "untrained", "trained")}
    np.testing.assert_allclose(found["untrained"]["fused"], found["sum"]["fused"], atol=1e-6)
    with torch.no_grad():
        expected = head(*(torch.from_numpy(found["sum"][side]) for side in ("image", "text"))).numpy()
    np.testing.assert_allclose(found["trained"]["fused"], expected, atol=1e-5)
    assert (found["trained"]["fused"] * found["sum"]["fused"]).sum(axis=1).max() < 0.999
    assert len({EncoderFiles.open(tmp_path / name).encoder_id for name in found}) == 3
    assert "CC0-1.0" in (tmp_path / "trained" / "card.md").read_text()


def test_the_command_exports_a_checkpoint(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(tmp_path / "encoder"), "--kind", "dual_stream"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "needs --checkpoint DIR" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*words, "--checkpoint", str(clip)])
    main()
    encoder_id = EncoderFiles.open(tmp_path / "encoder").encoder_id
    assert f"encoder {encoder_id} (dual_stream) is in {tmp_path / 'encoder'}" in capsys.readouterr().out


def test_another_head_over_copied_graphs_is_the_encoder_that_the_checkpoint_gives_with_it(
    clip: Path, tmp_path: Path
) -> None:
    base = export_dual_stream(tmp_path / "base", clip)
    head = Head(24)
    assert export_headed(tmp_path / "same", tmp_path / "base", head, {}) == base  # untrained: the sum, as before
    torch.nn.init.normal_(head.gate.weight)
    about = {"training": [{"name": "shop", "licence": "your own"}], "settings": {"train": {"steps": 4}}}
    headed = export_headed(tmp_path / "headed", tmp_path / "base", head, about)
    save_head(head, tmp_path / "head.safetensors", {})
    assert headed == export_dual_stream(tmp_path / "whole", clip, tmp_path / "head.safetensors") != base
    first, second = (Encoder.load(tmp_path / name).encode(TITLES, pictures(32)) for name in ("headed", "whole"))
    for view in VIEWS:
        np.testing.assert_array_equal(first[view], second[view])
    files = EncoderFiles.open(tmp_path / "headed")
    assert (files.manifest["base"], files.manifest["checkpoint"]) == (base, "clip")
    card = files.path("card.md").read_text()
    assert all(told in card for told in ("CLIP checkpoint clip", "| shop | your own |", "| train.steps | `4` |"))
    assert export_headed(tmp_path / "sum", tmp_path / "headed", Head(24), {}) == base


def test_a_head_of_another_dimension_is_refused(clip: Path, tmp_path: Path) -> None:
    export_dual_stream(tmp_path / "base", clip)
    with pytest.raises(IntegrityError, match=r"the head joins vectors of 8, .* gives 24"):
        export_headed(tmp_path / "headed", tmp_path / "base", Head(8), {})
    save_head(Head(8), tmp_path / "head.safetensors", {})
    assert load_head(tmp_path / "head.safetensors")[0].dim == 8
    with pytest.raises(IntegrityError, match=r"joins vectors of 8, .* gives 24"):
        export_dual_stream(tmp_path / "encoder", clip, tmp_path / "head.safetensors")


def test_sides_of_two_spaces_are_refused(tmp_path: Path) -> None:
    checkpoints.save_align(tmp_path / "align", dim=16)
    with pytest.raises(UsageError, match="24 numbers for a photo and 16 for a title"):
        export_dual_stream(tmp_path / "encoder", tmp_path / "align")


def test_a_pickled_checkpoint_is_never_opened(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"no \*\.safetensors, it has pytorch_model\.bin"):
        export_dual_stream(tmp_path / "encoder", copy)


def test_code_of_a_checkpoint_is_never_run(copy: Path, tmp_path: Path) -> None:
    edit(copy / "config.json", auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"})
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'was here')!r}, 'w')")
    export_dual_stream(tmp_path / "encoder", copy)
    assert not (tmp_path / "was here").exists()


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", r"config\.json cannot be read"),
        ("preprocessor_config.json", r"has no preprocessor_config\.json"),
        ("tokenizer.json", r"has no tokenizer\.json: a SentencePiece model alone is not read"),
        ("model.safetensors", "it has no weights at all"),
    ],
)
def test_what_is_missing_is_named(copy: Path, tmp_path: Path, missing: str, message: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(UsageError, match=message):
        export_dual_stream(tmp_path / "encoder", copy)


def test_a_model_of_another_family_is_refused(copy: Path, tmp_path: Path) -> None:
    edit(copy / "config.json", model_type="blip")
    with pytest.raises(UsageError, match="of type 'blip', expected one of clip, siglip, align"):
        export_dual_stream(tmp_path / "encoder", copy)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop("text_projection.weight"), r"lacks 1 tensors .* text_projection\.weight"),
        (lambda tensors: tensors["text_projection.weight"].fill_(float("nan")), "not finite"),
        (lambda tensors: tensors.update({"text_projection.weight": torch.ones(3, 3)}), "cannot be loaded"),
    ],
)
def test_broken_weights_are_refused(copy: Path, tmp_path: Path, damage: Any, message: str) -> None:
    tensors = load_file(copy / "model.safetensors")
    damage(tensors)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(IntegrityError, match=message):
        export_dual_stream(tmp_path / "encoder", copy)
    assert not (tmp_path / "encoder").exists()


def test_cut_off_weights_are_refused(copy: Path, tmp_path: Path) -> None:
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match="cannot be loaded"):
        export_dual_stream(tmp_path / "encoder", copy)
