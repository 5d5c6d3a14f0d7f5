"""The encoder as exported: lengths, masking, order, equality with torch, refusal of what is damaged."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from samestyle.encoder.export import export_late_fusion, late_fusion_modules, torch_encoder
from samestyle.encoder.files import EncoderFiles, identity_digest
from samestyle.encoder.registry import load_cached
from samestyle.encoder.runtime import VIEWS, Encoder
from samestyle.encoder.sources import Sources, file_digest
from samestyle.errors import IntegrityError, UsageError

TITLES = ["red mug", "blue enamel mug with a long handle, dishwasher safe, 350 ml", None, "lamp", "x" * 5000]


def picture(seed: int, size: int = 224) -> np.ndarray:
    """A coloured ellipse on white, its place, shape and colours by `seed`."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    inside = (x / rng.uniform(0.2, 0.9)) ** 2 + (y / rng.uniform(0.2, 0.9)) ** 2 < 1
    return np.where(inside[..., None], rng.integers(0, 256, 3), 255).astype(np.uint8)


IMAGES = [picture(0), None, picture(2), picture(3), None]


@pytest.fixture(scope="session", params=["late_fusion", "unified"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def baseline(late_fusion: Path) -> dict[str, np.ndarray]:
    return Encoder.load(late_fusion).encode(TITLES, IMAGES)


@pytest.fixture(scope="session")
def encoder(folder: Path) -> Encoder:
    return Encoder.load(folder)


@pytest.fixture(scope="session")
def vectors(encoder: Encoder) -> dict[str, np.ndarray]:
    return encoder.encode(TITLES, IMAGES)


@pytest.fixture
def copy(late_fusion: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(late_fusion, tmp_path / "copy"))


def test_shapes_and_types(encoder: Encoder, vectors: dict[str, np.ndarray]) -> None:
    assert (encoder.dim, encoder.views, encoder.image_size) == (256, VIEWS, 224)
    assert list(vectors) == list(VIEWS)
    assert {(rows.shape, str(rows.dtype)) for rows in vectors.values()} == {((5, 256), "float32")}


def test_rows_have_length_one_or_are_zero_where_the_modality_is_missing(
    vectors: dict[str, np.ndarray],
) -> None:
    lengths = {view: np.linalg.norm(rows, axis=1) for view, rows in vectors.items()}
    np.testing.assert_allclose(lengths["image"], [1, 0, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(lengths["text"], [1, 1, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(lengths["fused"], [1, 1, 1, 1, 1], atol=1e-6)


def test_each_modality_has_its_half_and_fused_weighs_them_alike(baseline: dict[str, np.ndarray]) -> None:
    assert not baseline["image"][:, 160:].any()
    assert not baseline["text"][:, :160].any()
    both = (baseline["image"] + baseline["text"])[[0, 3]] / np.sqrt(2)
    np.testing.assert_allclose(baseline["fused"][[0, 3]], both, atol=1e-6)


def test_fused_is_the_single_view_when_the_other_modality_is_missing(vectors: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(vectors["fused"][2], vectors["image"][2])
    np.testing.assert_array_equal(vectors["fused"][[1, 4]], vectors["text"][[1, 4]])


def test_different_products_get_different_vectors(vectors: dict[str, np.ndarray]) -> None:
    assert vectors["image"][0] @ vectors["image"][3] < 0.99
    assert vectors["text"][1] @ vectors["text"][3] < 0.99
    assert vectors["text"][0] @ vectors["text"][1] > vectors["text"][0] @ vectors["text"][3]


def test_the_same_call_gives_the_same_bits(encoder: Encoder, vectors: dict[str, np.ndarray]) -> None:
    again = encoder.encode(TITLES, IMAGES)
    for view in VIEWS:
        np.testing.assert_array_equal(again[view], vectors[view])


def test_neighbours_in_the_batch_do_not_matter(encoder: Encoder) -> None:
    titles = [f"{'very ' * (row % 7)}nice product number {row}" for row in range(24)]
    images = [picture(row) if row % 2 else None for row in range(24)]
    together = encoder.encode(titles, images, batch_size=64)
    backwards = encoder.encode(titles[::-1], images[::-1], batch_size=5)
    alone = [encoder.encode([title], [image]) for title, image in zip(titles, images, strict=True)]
    for view in VIEWS:
        np.testing.assert_allclose(backwards[view][::-1], together[view], atol=1e-5)
        np.testing.assert_allclose(np.concatenate([rows[view] for rows in alone]), together[view], atol=1e-5)


def test_a_single_view_is_the_same_as_among_all(encoder: Encoder, vectors: dict[str, np.ndarray]) -> None:
    for view in VIEWS:
        alone = encoder.encode(TITLES, IMAGES, views=[view])
        assert list(alone) == [view]
        np.testing.assert_array_equal(alone[view], vectors[view])


def test_no_rows_give_no_vectors(encoder: Encoder) -> None:
    assert {view: rows.shape for view, rows in encoder.encode([], []).items()} == dict.fromkeys(VIEWS, (0, 256))


def test_graphs_equal_torch(baseline: dict[str, np.ndarray]) -> None:
    sources = Sources.find()
    expected = torch_encoder(sources, late_fusion_modules(sources)).encode(TITLES, IMAGES)
    for view in VIEWS:
        np.testing.assert_allclose(baseline[view], expected[view], atol=1e-4)


@pytest.mark.parametrize(
    ("titles", "images", "views", "message"),
    [
        (["mug", None], [None, None], VIEWS, "row 1 has neither title nor image"),
        (["mug"], [], VIEWS, "1 titles and 0 images"),
        (["mug"], [None], ["video"], "unknown view video"),
        (
            [None],
            [np.zeros((64, 64, 3), np.uint8)],
            VIEWS,
            r"\(64, 64, 3\) uint8, expected \(224, 224, 3\) uint8",
        ),
        ([None], [np.zeros((224, 224, 3), np.float32)], VIEWS, "float32, expected"),
    ],
)
def test_unusable_input_is_refused(encoder: Encoder, titles, images, views, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder.encode(titles, images, views)


def test_a_folder_is_loaded_once_a_process(folder: Path) -> None:
    assert load_cached(str(folder)) is load_cached(str(folder))


def test_exporting_again_leaves_a_good_folder_alone_and_mends_a_damaged_one(late_fusion: Path, copy: Path) -> None:
    before = (copy / "image.onnx").stat().st_mtime_ns
    encoder_id = export_late_fusion(copy)
    assert (copy / "image.onnx").stat().st_mtime_ns == before
    (copy / "image.onnx").write_bytes(b"damaged")
    assert export_late_fusion(copy) == encoder_id == EncoderFiles.open(late_fusion).encoder_id
    for name in EncoderFiles.open(late_fusion).manifest["files"]:
        assert file_digest(copy / name) == file_digest(late_fusion / name), name
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_export_does_not_overwrite_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something else"):
        export_late_fusion(tmp_path)


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx", "tokenizer.json", "golden.json", "card.md"])
def test_one_changed_byte_is_refused(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=f"{name} is damaged: sha256 expected .* found"):
        Encoder.load(copy)


def test_a_missing_file_is_refused(copy: Path) -> None:
    (copy / "text.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"text\.onnx is damaged: .* found no file"):
        Encoder.load(copy)


def test_a_folder_without_an_encoder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"python -m samestyle\.encoder\.export"):
        Encoder.load(tmp_path)


def rewrite(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_id": "0" * 16}, "says encoder_id 0000000000000000, its content gives"),
        ({"format_version": 99}, "format_version 99, this version reads 1"),
        ({"files": {}}, "lists no card.md, golden.json"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(copy: Path, changes: dict, message: str) -> None:
    rewrite(copy, **changes)
    with pytest.raises(IntegrityError, match=message):
        Encoder.load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "triple"}, "of kind 'triple', this version knows late_fusion, unified, dual_stream; update"),
        ({"kind": "unified"}, r"lists no fusion\.onnx, fusion\.safetensors"),
        ({"dim": 300}, "give 256 dimensions, encoder.json says 300"),
    ],
)
def test_an_identity_that_does_not_fit_the_files_is_refused(copy: Path, changes: dict, message: str) -> None:
    identity = EncoderFiles.open(copy).manifest["identity"] | changes
    rewrite(copy, identity=identity, encoder_id=identity_digest(identity))
    with pytest.raises(IntegrityError, match=message):
        Encoder.load(copy)


def test_a_manifest_cannot_name_files_outside_its_folder(copy: Path) -> None:
    files = EncoderFiles.open(copy).manifest["files"]
    rewrite(copy, files=files | {"../secret": {"sha256": "0", "bytes": 0}})
    with pytest.raises(IntegrityError, match=r"names \.\./secret, which lies outside"):
        Encoder.load(copy)


def test_an_unreadable_manifest_is_refused(copy: Path) -> None:
    (copy / "encoder.json").write_text("{")
    with pytest.raises(IntegrityError, match="cannot be read"):
        Encoder.load(copy)


def test_other_vectors_than_the_golden_ones_are_refused(copy: Path) -> None:
    golden = json.loads((copy / "golden.json").read_text())
    vector = golden[0]["vectors"]["fused"]
    vector[0], vector[200] = vector[0] + 0.1, vector[200] - 0.1
    (copy / "golden.json").write_text(json.dumps(golden))
    files = EncoderFiles(copy, json.loads((copy / "encoder.json").read_text())).manifest["files"]
    files["golden.json"]["sha256"] = file_digest(copy / "golden.json")
    rewrite(copy, files=files)
    with pytest.raises(IntegrityError, match=r"golden query 0 .* fused view: cosine 0\.\d+ .* at least 0\.9999"):
        Encoder.load(copy)


BANNED_IMPORTS = """
import sys

class Ban:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "pyspark", "onnx", "pandas", "pyarrow"}:
            raise ImportError(f"{name} is banned here")

sys.meta_path.insert(0, Ban())
from pathlib import Path
from samestyle.encoder.runtime import Encoder
print(Encoder.load(Path(sys.argv[1])).encode(["mug"], [None])["text"].shape)
"""


def test_run_time_needs_neither_torch_nor_spark(folder: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", BANNED_IMPORTS, str(folder)],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "(1, 256)"), done.stderr
