"""`train` on a tiny shop: a candidate comes out, killed runs go on, two processes agree with one, bad input is told."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs import train
from samestyle.encoder.dual_stream import export_dual_stream
from samestyle.encoder.export import export_late_fusion, export_unified
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.fusion import Fusion, FusionShape
from samestyle.encoder.registry import EncoderReference, current_encoder, encoder_manifest, evaluations, local_copy
from samestyle.encoder.sources import Sources
from samestyle.encoder.weights import load_fusion
from samestyle.errors import InputError, UsageError
from samestyle.release.store import open_store
from samestyle.settings import Embed
from samestyle.tables import schemas
from samestyle.tables.training import check_packaged
from samestyle.tables.training_data import check_counts, check_photos, validation_rows
from samestyle.tables.warehouse import Warehouse
from samestyle.training.loop import NONE, Trainer
from samestyle.training.pairs import Pairs
from samestyle.training.photos import from_png, to_png

ROOT = Path(__file__).resolve().parents[2]
STYLES, A_STYLE = 8, 3
NOUNS = ("mug", "lamp", "chair", "shirt", "clock", "bag", "shoe", "☃☃☃")  # the last title has no known token
SMALL = ("train.steps=4", "train.evaluate_every=2", "train.warmup=1", "train.learning_rate=0.001")


@dataclass(frozen=True)
class Shop:
    root: Path
    words: tuple[str, ...]

    def train(self, *words: str) -> tuple[int, str]:
        """Exit code and everything that was printed."""
        printed = io.StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            code = train.main([f"paths.root={self.root}", *self.words, *SMALL, *words])
        return code, printed.getvalue()

    def write_pairs(self, spark, rows: list[tuple]) -> None:
        table = Warehouse(spark, str(self.root), "delta").pairs
        table.overwrite(spark.createDataFrame(rows, schemas.PAIRS), "1")

    @property
    def folder(self) -> Path:
        """Of the newest run."""
        return max((self.root / "workshop").glob("train-*"))

    def record(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """An encoder of kind unified, whose fusion adds nothing yet."""
    folder = tmp_path_factory.mktemp("encoders") / "unified"
    torch.manual_seed(0)
    export_unified(folder, Fusion(FusionShape()).eval(), {})
    return folder


@pytest.fixture
def shop(spark, base, tmp_path) -> Shop:
    """Offers 0 to 23, three of each style: one colour, another picture. Pairs of all within a style, by style."""
    photos = [photo(item) for item in range(STYLES * A_STYLE)]
    titles = [f"{NOUNS[item // A_STYLE]} number {item}" for item in range(len(photos) - A_STYLE)] + ["☃☃☃"] * A_STYLE
    ids = [f"item-{item}" for item in range(len(photos))]
    pq.write_table(pa.table({"item_id": ids, "title": titles, "image": photos}), tmp_path / "shop.parquet")
    shop = Shop(tmp_path / "root", (f"catalogue.path={tmp_path / 'shop.parquet'}", f"encoder.path={base}"))
    shop.write_pairs(spark, [pair for style in range(STYLES) for pair in pairs_of(style)])
    return shop


def photo(item: int) -> bytes:
    random = np.random.default_rng(item)
    picture = np.full((64, 64, 3), 40 + 25 * (item // A_STYLE), np.uint8)
    top, left = random.integers(0, 32, 2)
    picture[top : top + 32, left : left + 32] = random.integers(0, 256, 3)
    return to_png(picture)


def pairs_of(style: int, split: str | None = None) -> list[tuple]:
    first = A_STYLE * style
    split = split or ("validation" if style in (1, 4) else "train")
    ends = [(first, first + 1), (first + 1, first + 2), (first, first + 2)]
    return [(f"item-{t}", f"item-{o}", None, 2, None, None, style, split) for t, o in ends]


def fusion_of(shop: Shop, encoder_id: str) -> Fusion:
    return load_fusion(local_copy(open_store(shop.root / "store"), encoder_id) / "fusion.safetensors")[0]


def test_a_candidate_comes_out_with_its_card_evaluation_and_report(shop):
    code, printed = shop.train("train.start=scratch", "train.seed=1")
    assert code == 0, printed
    assert "18 pairs of 6 style groups, 6 more for validation, over 24 contents" in printed
    assert "batches of 6, not of train.batch=64" in printed
    record, store = shop.record("training"), open_store(shop.root / "store")
    new, old = record["encoder_id"], record["from"]
    assert new != old
    assert current_encoder(store) != new
    manifest = encoder_manifest(store, new)
    assert manifest["training_digest"] == shop.record("data")["digest"]
    assert manifest["settings"]["train"]["steps"] == 4
    assert {one["direction"] for one in record["compared"]} >= {"i-i", "i-t", "m-m", "m-t"}
    assert evaluations(store, new).keys() == evaluations(store, old).keys() != set()
    page = (shop.folder / "report.html").read_text()
    assert new in page
    assert page.count("image/svg+xml") == 2
    assert {path.suffix for path in shop.folder.iterdir()} == {".json", ".html"}
    encoder = EncoderReference(store, new).load()
    assert encoder.encode(["a mug"], [None])["fused"].shape == (1, 256)


def test_weights_are_chosen_among_whole_styles_and_what_a_shop_has_besides():
    training = Pairs(np.array([0]), np.array([1]), np.array([-5]), np.zeros(1, np.int64))
    kept = Pairs(np.array([2, 4, 1]), np.array([3, 5, 6]), np.array([-9, 8, 3]), np.zeros(3, np.int64))
    validation = validation_rows(kept, training, 10, seed=0)
    assert validation.asking.tolist() == [2, 3, 4, 5, 6]  # 1 is trained on
    assert validation.group[:5].tolist() == [0, 0, 2, 2, 1]  # groups are numbered anew
    assert sorted(validation.rows[5:]) == [0, 7, 8, 9]  # in no pair that is kept
    assert set(validation.group[5:]) == {NONE}
    assert len(validation_rows(Pairs(*[np.zeros(0, np.int64)] * 4), training, 10, seed=0).rows) == 0


@pytest.fixture
def clip(tmp_path, monkeypatch) -> Path:
    """An encoder of kind dual_stream, over a small checkpoint with random weights."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "core")
    import checkpoints

    checkpoints.save_clip(tmp_path / "clip")
    export_dual_stream(tmp_path / "dual_stream", tmp_path / "clip")
    return tmp_path / "dual_stream"


def test_the_candidate_of_a_dual_stream_has_a_trained_head(spark, shop, clip):
    # Without validation, so that the last weights are kept.
    shop.write_pairs(spark, [pair for style in range(STYLES) for pair in pairs_of(style, "train")])
    chosen, first = f"encoder.path={clip}", EncoderFiles.open(clip).encoder_id
    code, printed = shop.train(chosen)
    assert code == 0, printed
    assert "starts from a new head, the plain sum" in printed
    assert "features of 24 contents take at most 0.00 GiB" in printed
    new, store = shop.record("training")["encoder_id"], open_store(shop.root / "store")
    files = EncoderFiles.open(local_copy(store, new))
    assert files.has_head
    assert (files.manifest["base"], files.manifest["training_digest"]) == (first, shop.record("data")["digest"])
    photos = [from_png(np.frombuffer(photo(item), np.uint8))[:32, :32] for item in (0, 9)]
    before, after = (EncoderReference(store, one).load().encode(["a mug", "lamp"], photos) for one in (first, new))
    for view in ("image", "text"):
        np.testing.assert_array_equal(before[view], after[view])
    assert not np.allclose(before["fused"], after["fused"], atol=1e-5)

    code, printed = shop.train(chosen, "train.depth=backbones")
    assert code == 2
    assert "is of kind dual_stream, whose networks are never trained" in printed


def test_through_the_backbones_only_what_is_packaged_is_trained():
    packaged = {"kind": "unified", "sources": Sources.find().digests()}
    check_packaged("one", packaged)
    for changed, told in (("transform", "has a projection of its own"), ("image_weights", "has backbones of its own")):
        foreign = packaged | {"sources": packaged["sources"] | {changed: "another"}}
        with pytest.raises(UsageError, match=f"encoder one {told}.*train.depth=fusion"):
            check_packaged("one", foreign)


@pytest.mark.soak  # tests/core/test_training.py kills the loop at several steps
def test_a_killed_run_goes_on(spark, shop, monkeypatch):
    # Without validation, so that it is the last weights that are compared.
    shop.write_pairs(spark, [pair for style in range(STYLES) for pair in pairs_of(style, "train")])
    code, printed = shop.train()
    assert code == 0, printed
    assert "no pairs for validation, so that the last weights are kept" in printed
    new, look = shop.record("training")["encoder_id"], Trainer.look

    def killed(trainer: Trainer, watch) -> None:
        look(trainer, watch)
        if trainer.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "look", killed)
        with pytest.raises(KeyboardInterrupt):
            shop.train()
    interrupted = shop.folder
    assert (interrupted / "checkpoint.safetensors").exists()
    code, printed = shop.train()
    assert code == 0, printed
    assert f"run {interrupted.name} goes on, its data is as it was" in printed
    assert shop.folder == interrupted
    assert shop.record("training")["encoder_id"] == new != shop.record("training")["from"]


@pytest.mark.soak  # tests/core/test_training.py has two processes train, and compares their gradients
def test_two_processes_agree_with_one(spark, shop):
    shop.write_pairs(spark, [pair for style in range(STYLES) for pair in pairs_of(style, "train")])
    code, printed = shop.train()
    assert code == 0, printed
    new = shop.record("training")["encoder_id"]
    code, printed = shop.train("train.processes=2")
    assert code == 0, printed
    together, weights = fusion_of(shop, shop.record("training")["encoder_id"]), fusion_of(shop, new).state_dict()
    for name, tensor in together.state_dict().items():
        if "key.bias" not in name:  # no output depends on it, so that rounding leads it anywhere
            torch.testing.assert_close(tensor, weights[name], atol=3e-3, rtol=0)


def test_pairs_and_encoders_that_cannot_be_used(spark, shop, tmp_path):
    stranger = ("item-0", "nobody", None, 2, None, None, 0, "train")
    shop.write_pairs(spark, [*pairs_of(0, "train"), stranger, *pairs_of(2, "train")])
    code, printed = shop.train("train.steps=0")
    assert code == 0, printed
    assert "1 of 7 pairs left out: the catalogue has not both items" in printed
    assert "no step was better than the start" in printed

    def refused(rows: list[tuple], *words: str) -> str:
        shop.write_pairs(spark, rows)
        code, printed = shop.train(*words)
        assert code == 2, printed
        return printed

    assert "3 training pairs in 1 style groups: at least two groups are needed" in refused(pairs_of(0, "train"))
    two = pairs_of(0, "train") + pairs_of(2, "train")
    assert "and train.features_max_gib is 1e-06: set train.features_max_gib=1" in refused(
        two, "train.features_max_gib=1e-6"
    )
    other = tmp_path / "late_fusion"
    export_late_fusion(other, 64)
    assert "is of kind late_fusion, and only a fusion is trained" in refused(two, f"encoder.path={other}")


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"pairs": 0, "usable": 0, "known": 0}, "no training pairs: run ./spark-submit.sh sample_pairs"),
        ({"pairs": 3, "usable": 0, "known": 0}, "all 3 pairs are kept for testing or have label 0"),
        ({"pairs": 3, "usable": 2, "known": 0}, r"none of 2 pairs has both its items .*such as nobody\)"),
    ],
)
def test_pairs_of_which_none_is_left(spark, counts, told):
    with pytest.raises(UsageError, match=told):
        check_counts(counts, spark.createDataFrame([("nobody",)], "trigger_id string"))


def test_a_dead_image_server_does_not_train_on_titles_alone():
    check_photos(30, 1000, Embed())
    with pytest.raises(InputError, match=r"300 of 1,000 photos cannot be had, at most 20% may"):
        check_photos(300, 1000, Embed())


def test_without_a_table_of_pairs(shop, tmp_path):
    empty = Shop(tmp_path / "elsewhere", shop.words)
    code, printed = empty.train()
    assert code == 2
    assert "there are no training pairs: run ./spark-submit.sh sample_pairs first" in printed
