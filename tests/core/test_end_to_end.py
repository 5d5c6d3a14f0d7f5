"""Training through the packaged backbones: two steps on a few small pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from samestyle.encoder.export import MAX_TOKENS
from samestyle.encoder.fusion import Fusion, FusionShape
from samestyle.encoder.preprocessing import load_tokenizer
from samestyle.encoder.sources import Sources
from samestyle.settings import Losses, Train
from samestyle.training.end_to_end import EndToEnd
from samestyle.training.loop import Trainer, Validation, encode
from samestyle.training.pairs import Batches, Pairs
from samestyle.training.photos import Photos, to_png

SIZE = 64
TITLES = ["red mug", "a mug, red", "blue lamp", "lamp in blue", None, "☃☃☃"]  # the last has no known token


@pytest.fixture(scope="module")
def photos() -> Photos:
    """Six contents; the first has no photo, the fifth no title."""
    random = np.random.default_rng(0)
    files = [b"", *(to_png(random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)) for _ in TITLES[1:])]
    tokenizer = load_tokenizer(Path(Sources.find().tokenizer), MAX_TOKENS)
    ids = [tokenizer.encode(title).ids if title else [] for title in TITLES]
    return Photos(
        np.frombuffer(b"".join(files), np.uint8),
        np.cumsum([0, *map(len, files)]),
        np.concatenate(ids).astype(np.int32),
        np.cumsum([0, *map(len, ids)]),
        np.array([SIZE]),
    )


def test_two_steps_move_both_backbones_and_leave_their_statistics(photos):
    torch.manual_seed(0)
    fusion = Fusion(FusionShape(width=16, heads=2))
    torch.nn.init.normal_(fusion.out.weight, std=0.1)
    model = EndToEnd.around(fusion, SIZE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pairs = Pairs(np.array([0, 2, 4]), np.array([1, 3, 5]), np.arange(3), np.zeros(3, np.int64))
    settings = Train(batch=3, steps=2, warmup=0, evaluate_every=2, depth="backbones", average=0)
    nobody = Validation(np.zeros(0, np.int64), np.zeros(0, np.int64))
    trainer = Trainer(model, photos, Batches(pairs, photos.variants, 3, 0.0, 0), nobody, settings, Losses())
    history = trainer.run()
    assert np.isfinite([terms["total"] for terms in history.losses]).all()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    for part in ("image.side.features.network._conv_stem", "text.side.features.network.encoder", "fusion.cls"):
        assert any(name.startswith(part) for name in moved), part
    assert not [name for name in moved if "running" in name]


def test_views_of_photos_and_titles(photos):
    model = EndToEnd.around(Fusion(FusionShape(width=16, heads=2)), SIZE)
    views = encode(model, photos, np.arange(len(TITLES)))
    assert views["image"].any(axis=1).tolist() == [False, True, True, True, True, True]
    assert views["text"].any(axis=1).tolist() == [True, True, True, True, False, True]
    np.testing.assert_allclose(np.linalg.norm(views["fused"], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(views["fused"][0], views["text"][0], atol=1e-5)
