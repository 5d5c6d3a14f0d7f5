"""A dual_stream's head by the training loop: the fused vectors alone move, and what comes out is what goes in again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from samestyle.encoder.dual_stream import torch_sum
from samestyle.encoder.features import Features as Encoded
from samestyle.encoder.features import Side
from samestyle.encoder.fusion import Fusion, FusionShape
from samestyle.encoder.head import Head, HeadedSum, save_head
from samestyle.encoder.joins import joined
from samestyle.encoder.preprocessing import VIEWS
from samestyle.encoder.weights import save_fusion
from samestyle.errors import IntegrityError
from samestyle.settings import Losses, Train
from samestyle.training.cache import Widths, feature_batch, pack_features
from samestyle.training.distributed import Processes
from samestyle.training.features import Features
from samestyle.training.folder import TrainingFolder
from samestyle.training.loop import Trainer, Validation, encode
from samestyle.training.outcome import read_outcome
from samestyle.training.pairs import Batches, Pairs
from samestyle.training.process import train

torch.set_num_threads(1)
CONTENTS, DIM = 40, 8
SETTINGS = Train(batch=8, steps=30, warmup=2, evaluate_every=10, learning_rate=0.05, alignment=0, modality_dropout=0)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def made_sides(seed: int = 0) -> dict[int, tuple[Encoded | None, Encoded | None]]:
    """Title and photo of each content as a dual_stream gives them; 0 has no photo, 1 no title.

    Four contents of a style in a row: photos share their first half, titles their second, the rest is noise, so that
    a gate which takes each half from the side that knows is better than the sum.
    """
    random = np.random.default_rng(seed)
    style = np.repeat(random.standard_normal((CONTENTS // 4, DIM)), 4, axis=0)
    noise = 3 * random.standard_normal((3, CONTENTS, DIM))
    photos, titles = np.stack([style, style]) + noise[:2], style + noise[2]
    photos[:, :, : DIM // 2] -= noise[:2, :, : DIM // 2]
    titles[:, DIM // 2 :] -= noise[2, :, DIM // 2 :]
    photos, titles = unit(photos), unit(titles)
    return {
        row: (one_sided(text=titles[row : row + 1]) if row != 1 else None, one_sided(photos[:, row]) if row else None)
        for row in range(CONTENTS)
    }


def one_sided(image: np.ndarray | None = None, text: np.ndarray | None = None) -> Encoded:
    rows = len(image if image is not None else text)
    sides = (Side.missing(rows, DIM, 0) if part is None else with_token(part) for part in (image, text))
    return Encoded(*(array for side in sides for array in side))


def with_token(vectors: np.ndarray) -> Side:
    return Side(vectors, np.zeros((len(vectors), 1, 0), np.float32), np.ones((len(vectors), 1), np.float32))


def packed(folder: Path) -> Features:
    """Through Parquet, as workers leave it."""
    sides = made_sides()
    titles = {row: title for row, (title, _) in sides.items() if title}
    photos = {row: photo for row, (_, photo) in sides.items() if photo}
    batch = feature_batch(list(sides), titles, photos)
    pq.write_table(pa.Table.from_batches([batch]), folder / "part.parquet")
    return pack_features([folder / "part.parquet"], folder / "features", Widths(DIM, DIM, 0, 0, 2))


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return packed(tmp_path_factory.mktemp("features"))


def made_pairs(styles: range) -> Pairs:
    """Contents 4 s to 4 s + 3 are of style s; each with the next one."""
    trigger = np.concatenate([4 * style + np.arange(3) for style in styles])
    return Pairs(trigger, trigger + 1, trigger // 4, np.zeros(len(trigger), np.int64))


def made_trainer(features: Features, losses: Losses | None = None) -> Trainer:
    batches = Batches(made_pairs(range(10)), features.variants, SETTINGS.batch, SETTINGS.alignment, SETTINGS.seed)
    nobody = Validation(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Trainer(HeadedSum(Head(DIM)), features, batches, nobody, SETTINGS, losses or Losses(single_views=0.5))


def test_cached_features_are_the_two_vectors_alone(features: Features) -> None:
    sides = made_sides()
    assert features.has_image.tolist() == [False, *[True] * 39]
    assert features.has_text.tolist() == [True, False, *[True] * 38]
    assert features.longest == 1
    inputs = features.batch(np.array([0, 1, 2]), np.array([0, 1, 1]))
    np.testing.assert_array_equal(inputs["image"][1:], [sides[row][1].image[1] for row in (1, 2)])
    np.testing.assert_array_equal(inputs["text"][[0, 2]], [sides[row][0].text[0] for row in (0, 2)])
    assert inputs["image_tokens"].size == inputs["text_tokens"].size == features.text_tokens.size == 0
    assert sum(array.nbytes for array in vars(features).values() if isinstance(array, np.ndarray)) < 5000


def test_training_moves_the_fused_vectors_alone_and_lowers_the_loss(features: Features) -> None:
    trainer, rows = made_trainer(features), np.arange(CONTENTS)
    one = trainer.batches.at(0)
    trainer.batches.at = lambda step: one
    before = encode(trainer.model, features, rows)
    np.testing.assert_allclose(before["fused"][2], unit(before["image"] + before["text"])[2], atol=1e-6)
    losses = trainer.run().losses
    assert losses[-1]["total"] < 0.8 * losses[0]["total"]
    after = encode(trainer.model, features, rows)
    for view in ("image", "text"):
        np.testing.assert_array_equal(after[view], before[view])
    for row, view in ((0, "text"), (1, "image")):  # a lone side is the fused vector
        np.testing.assert_allclose(after["fused"][row], before[view][row], atol=1e-6)
    assert (after["fused"][2:] * before["fused"][2:]).sum(axis=1).max() < 0.9999


@pytest.mark.parametrize(
    ("published", "further"),
    [(False, {"infonce m-m", "infonce t-m", "infonce i-m"}), (True, {"lc t", "lc i"})],
    ids=["repaired", "published"],
)
def test_each_term_of_the_loss_moves_the_head(features: Features, published: bool, further: set[str]) -> None:
    trainer = made_trainer(features, Losses(published=published, single_views=0.5, infonce=0.1))
    trainer.batches.size = 10
    torch.nn.init.normal_(trainer.model.head.gate.weight)
    terms = trainer.loss(trainer.batches.at(0))
    assert terms.keys() == {"ppm m-m", "ppm t-m", "ppm i-m", "pdc t", "pdc i", "total"} | further
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, trainer.model.head.gate.weight, retain_graph=True)
        assert gradient.abs().max() > 0, name


def test_what_is_trained_is_what_the_encoder_gives(features: Features) -> None:
    head = Head(DIM)
    torch.nn.init.normal_(head.gate.weight)
    inputs = Encoded(**features.batch(np.arange(CONTENTS), np.zeros(CONTENTS, np.int64)))
    head.eval().requires_grad_(False)
    expected = joined(inputs, torch_sum(DIM, head), VIEWS)
    for view, vectors in encode(HeadedSum(head), features, np.arange(CONTENTS)).items():
        np.testing.assert_allclose(vectors, expected[view], atol=1e-6)


def test_a_training_of_a_head_from_its_folder(tmp_path: Path) -> None:
    work = TrainingFolder(tmp_path)
    packed(tmp_path)
    pq.write_table(
        pa.table({"row": np.arange(CONTENTS), "name": [f"item-{i}" for i in range(CONTENTS)]}), work.contents
    )
    save_head(Head(DIM), work.start, {})
    validation = Validation(np.arange(28, 40), np.arange(28, 40) // 4)
    work.write_task(SETTINGS, Losses(), made_pairs(range(7)), validation)
    train(work, Processes())
    outcome = read_outcome(work)
    assert isinstance(outcome.model, HeadedSum)
    assert outcome.best_step > 0
    before, after = outcome.before.figures(), outcome.after.figures()
    assert before["i-t"] == after["i-t"]
    assert after["m-m"]["mrr"] > before["m-m"]["mrr"]


def test_what_training_starts_from_is_a_fusion_or_a_head(tmp_path: Path) -> None:
    work = TrainingFolder(tmp_path)
    head = Head(DIM)
    torch.nn.init.ones_(head.gate.bias)
    save_head(head, work.start, {})
    assert torch.equal(work.read_start().head.gate.bias, torch.ones(DIM))
    save_fusion(Fusion(FusionShape(width=8)), work.start, {})
    assert work.read_start().dim == 256
    work.start.write_bytes(b"\x80\x04pickle")
    with pytest.raises(IntegrityError, match="holds no weights of this project"):
        work.read_start()
