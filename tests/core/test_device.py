"""The encoder by torch gives what it gives by ONNX Runtime, in pieces where memory is short; on a GPU too, if any."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkpoints
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from samestyle.encoder.batching import PATIENCE, BatchSize
from samestyle.encoder.device import DeviceEncoder, in_pieces
from samestyle.encoder.dual_stream import export_dual_stream
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.head import Head, save_head
from samestyle.encoder.preprocessing import VIEWS
from samestyle.encoder.registry import EncoderFolder
from samestyle.encoder.runtime import Encoder
from samestyle.encoder.torch_graph import TorchGraph
from samestyle.errors import IntegrityError, UsageError

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("late_fusion", "unified", *checkpoints.FAMILIES, "headed")
TITLES = ["a red mug", None, "A blue chair of wood, a blue chair of wood, a blue chair", "lamp", None, "mug of wood"]
HAS_IMAGE = [True, True, False, True, True, False]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = request.param
    if kind in ("late_fusion", "unified"):
        return request.getfixturevalue(kind)
    base = tmp_path_factory.mktemp(kind)
    family = "clip" if kind == "headed" else kind
    checkpoints.FAMILIES[family](base / "checkpoint")
    head = base / "head.safetensors"
    if kind == "headed":
        torch.manual_seed(0)
        trained = Head(24)
        torch.nn.init.normal_(trained.gate.weight)
        save_head(trained, head, {})
    export_dual_stream(base / "encoder", base / "checkpoint", head if kind == "headed" else None)
    return base / "encoder"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("small")
    checkpoints.save_clip(base / "checkpoint")
    export_dual_stream(base / "encoder", base / "checkpoint")
    return base / "encoder"


def pictures(size: int, rows: int = len(TITLES)) -> list[np.ndarray | None]:
    drawn = np.random.default_rng(0).integers(0, 256, (rows, size, size, 3), np.uint8)
    return [picture if HAS_IMAGE[row % len(HAS_IMAGE)] else None for row, picture in enumerate(drawn)]


def test_vectors_are_those_of_onnx_runtime(folder: Path) -> None:
    ours, theirs = DeviceEncoder.load(folder, "cpu", "fp32"), Encoder.load(folder)
    images = pictures(theirs.image_size)
    expected = theirs.encode(TITLES, images)
    assert (ours.dim, ours.image_size, ours.encoder_id) == (theirs.dim, theirs.image_size, theirs.encoder_id)
    large = folder.name in ("late_fusion", "unified")
    for views in (VIEWS,) if large else (VIEWS, ("image",), ("text",), ("fused",)):
        found = ours.encode(TITLES, images, views, batch_size=2)
        assert set(found) == set(views)
        for view in views:
            assert found[view].dtype == np.float32
            np.testing.assert_allclose(found[view], expected[view], atol=2e-6)
            np.testing.assert_array_equal(found[view].any(axis=1), expected[view].any(axis=1))


def test_no_step_asks_the_device_for_a_number_or_mixes_devices(folder: Path) -> None:
    """torch's device `meta` holds no numbers at all: whoever asks for one, or adds what lies elsewhere, fails."""
    size = EncoderFiles.open(folder).manifest["identity"]["preprocessing"]["image"]["size"]
    photos = torch.empty(5, size, size, 3, dtype=torch.uint8, device="meta")
    tokens = torch.empty(5, 9, dtype=torch.int64, device="meta")
    for side in ("image", "text"):
        graph = TorchGraph(folder / f"{side}.onnx").to("meta")
        with torch.inference_mode():
            found = graph(photos) if side == "image" else graph(tokens, tokens)
        assert [output.device.type for output in found] == ["meta"] * len(found)
        assert [output.shape[-1] for output in found] == graph.widths


def test_rows_of_one_side_alone_and_no_rows(small: Path) -> None:
    ours, theirs = DeviceEncoder.load(small, "cpu", "fp32"), Encoder.load(small)
    photo = [picture for picture in pictures(theirs.image_size) if picture is not None][:2]
    for titles, images in ((["mug", "lamp"], [None, None]), ([None, None], photo), ([], [])):
        expected = theirs.encode(titles, images)
        for view, found in ours.encode(titles, images).items():
            np.testing.assert_allclose(found, expected[view], atol=2e-6)


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.97), ("fp16", 0.999)])
def test_fewer_digits_give_vectors_within_the_stated_cosine(small: Path, precision: str, least: float) -> None:
    """What they give for the encoder that is shipped takes a CPU minutes: `python -m benchmarks.embed device`."""
    theirs, ours = Encoder.load(small), DeviceEncoder.load(small, "cpu", precision)
    images = pictures(theirs.image_size)
    expected, found = theirs.encode(TITLES, images), ours.encode(TITLES, images)
    for view in VIEWS:
        some = expected[view].any(axis=1)
        cosines = (expected[view] * found[view]).sum(axis=1)[some]
        assert least <= cosines.min() < 1 - 1e-7  # not float32 under another name
        np.testing.assert_allclose(np.linalg.norm(found[view][some], axis=1), 1, atol=1e-6)


def test_several_threads_may_encode_at_once(small: Path) -> None:
    encoder = DeviceEncoder.load(small, "cpu", "fp32")
    images = pictures(encoder.image_size)
    expected = encoder.encode(TITLES, images)["fused"]
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: encoder.encode(TITLES, images)["fused"], range(3)):
            np.testing.assert_allclose(found, expected, atol=2e-6)


def test_inputs_are_refused_as_by_the_encoder_of_the_cpu(small: Path) -> None:
    encoder = DeviceEncoder.load(small, "cpu", "fp32")
    with pytest.raises(UsageError, match="unknown view size"):
        encoder.encode(["mug"], [None], ["size"])
    with pytest.raises(UsageError, match="row 0 has neither"):
        encoder.encode([None], [None])


def test_vectors_that_are_too_far_from_the_recorded_ones_are_refused(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What bf16 gives is far from float32 where its tolerance is that of float32."""
    monkeypatch.setitem(DeviceEncoder.load.__globals__["GOLDEN"], "bf16", 0.9999999)
    with pytest.raises(IntegrityError, match=r"encoder\.precision"):
        DeviceEncoder.load(small, "cpu", "bf16")


def test_a_device_that_is_not_there_is_refused(small: Path) -> None:
    with pytest.raises(UsageError, match=r"no GPU cuda:99 here: torch .* sees \d"):
        EncoderFolder(small).load_on("cuda:99", "bf16")


def test_an_operator_that_torch_is_not_taught_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])
    graph = helper.make_graph([helper.make_node("Celu", ["x"], ["y"])], "graph", [value], [out])
    onnx.save(helper.make_model(graph), tmp_path / "image.onnx")
    with pytest.raises(UsageError, match=r"image\.onnx uses Celu.*encoder\.device=cpu"):
        TorchGraph(tmp_path / "image.onnx")


# --- memory


class Memory:
    """Doubles its rows, and has room for so many at once. It keeps the sizes that were tried."""

    def __init__(self, room: int) -> None:
        self.room, self.tried = room, list[int]()

    def __call__(self, rows: slice) -> tuple[torch.Tensor, ...]:
        self.tried.append(rows.stop - rows.start)
        if self.tried[-1] > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return (2 * torch.arange(rows.start, rows.stop),)


def test_a_batch_is_halved_until_it_fits_and_no_row_is_lost() -> None:
    memory = Memory(room=3)
    found = in_pieces(memory, 10, 8, BatchSize())
    assert found[0].tolist() == list(range(0, 20, 2))
    assert memory.tried == [8, 4, 2, 2, 2, 2, 2]


def test_batches_grow_again_after_a_while_and_only_once_there_is_room() -> None:
    memory, batch = Memory(room=4), BatchSize()
    in_pieces(memory, 4 * PATIENCE, 8, batch)
    assert memory.tried == [8] + [4] * PATIENCE
    in_pieces(memory, 16, 8, batch)  # too early: still no room for 8
    assert memory.tried[1 + PATIENCE :] == [8, 4, 4, 4, 4]
    memory.room, memory.tried = 100, []
    in_pieces(memory, 4 * (PATIENCE - 4) + 16, 8, batch)
    assert memory.tried == [4] * (PATIENCE - 4) + [8, 8]
    assert batch.at_most(1000) == 1000


def test_one_row_that_has_no_room_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        in_pieces(Memory(room=0), 3, 8, BatchSize())


# --- a real GPU


@pytest.mark.soak  # another process reads torch and all that it draws in; the tests for GPUs are run by hand anyway
def test_what_is_for_gpus_runs_without_spark() -> None:
    script = "import sys; sys.modules.update(dict.fromkeys(('pyspark', 'py4j', 'delta')))\n"
    script += "import benchmarks.embed, pytest; sys.exit(pytest.main(['-m', 'gpu', '--collect-only', 'tests']))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_a_gpu_short_of_memory_takes_smaller_batches" in done.stdout


@pytest.fixture
def gpu() -> Iterator[str]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    yield "cuda:0"
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("fp16", 0.999), ("bf16", 0.97)])
def test_a_gpu_gives_the_vectors_of_the_cpu(folder: Path, gpu: str, precision: str, least: float) -> None:
    theirs, ours = Encoder.load(folder), DeviceEncoder.load(folder, gpu, precision)
    images = pictures(theirs.image_size)
    expected = theirs.encode(TITLES, images)
    for view, found in ours.encode(TITLES, images, batch_size=2).items():
        some = expected[view].any(axis=1)
        assert (expected[view] * found).sum(axis=1)[some].min() >= least
        np.testing.assert_array_equal(found.any(axis=1), some)


@pytest.mark.gpu
def test_a_gpu_encodes_for_several_threads_at_once(unified: Path, gpu: str) -> None:
    encoder = DeviceEncoder.load(unified, gpu, "fp32")
    images = pictures(encoder.image_size, 300)
    titles = [title or "mug" for title in TITLES] * 50
    expected = encoder.encode(titles, images, batch_size=64)["fused"]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: encoder.encode(titles, images, batch_size=64)["fused"], range(8)):
            np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.gpu
def test_a_gpu_short_of_memory_takes_smaller_batches(unified: Path, gpu: str) -> None:
    encoder = DeviceEncoder.load(unified, gpu, "fp32")
    images = [picture for picture in pictures(encoder.image_size, 768) if picture is not None]
    titles = ["mug"] * len(images)
    expected = encoder.encode(titles, images, batch_size=8)["fused"]
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 2**30  # a batch of 512 needs several times as much
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    found = encoder.encode(titles, images, batch_size=512)["fused"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert encoder.batch.at_most(512) < 512
