"""The training loop on made-up features: same seed same weights, killed and continued, two processes, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from samestyle.encoder.features import Features as Encoded
from samestyle.encoder.fusion import Fusion, FusionShape
from samestyle.errors import IntegrityError, SamestyleError, UsageError
from samestyle.settings import Losses, Train
from samestyle.training import loop
from samestyle.training.cache import Widths, as_batch, feature_batch, pack_features, pack_photos
from samestyle.training.distributed import Processes
from samestyle.training.features import Features
from samestyle.training.loop import Draws, Trainer, Validation, dropped, encode, hidden, learning_rate
from samestyle.training.pairs import Batches, Pairs
from samestyle.training.photos import from_png, to_png
from samestyle.training.variants import variants_of

ROOT = Path(__file__).resolve().parents[2]
torch.set_num_threads(1)  # networks of a few hundred numbers
SHAPE = FusionShape(image_half=4, text_half=3, image_width=6, text_width=5, width=8, heads=2)
SETTINGS = Train(batch=8, steps=6, warmup=2, evaluate_every=3, learning_rate=0.01)
CONTENTS, GROUPS = 40, 10


def made_features(rows: int = CONTENTS, seed: int = 0) -> Features:
    """Random; content 0 has no photo, content 1 no title."""
    random = np.random.default_rng(seed)
    has_image = np.arange(rows) != 0
    lengths = random.integers(2, 6, rows) * (np.arange(rows) != 1)
    image, text = random.standard_normal((2, rows, 4)), random.standard_normal((rows, 3))
    tokens = random.standard_normal((2, rows, 16, 6)) * has_image[:, None, None]
    return Features(
        (image * has_image[:, None]).astype(np.float32),
        tokens.astype(np.float16),
        has_image,
        (text * (lengths > 0)[:, None]).astype(np.float32),
        random.standard_normal((lengths.sum(), 5)).astype(np.float16),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def made_pairs(groups: int = GROUPS) -> Pairs:
    """Contents 3 g, 3 g + 1 and 3 g + 2 are of group g."""
    trigger = np.repeat(3 * np.arange(groups), 2)
    offer = trigger + np.tile([1, 2], groups)
    return Pairs(trigger, offer, trigger // 3, np.zeros(len(trigger), np.int64))


def made_trainer(settings: Train = SETTINGS, losses: Losses | None = None, **further) -> Trainer:
    torch.manual_seed(settings.seed)
    fusion = Fusion(SHAPE)
    # An untrained step is zero, and with it most gradients.
    torch.nn.init.normal_(fusion.out.weight, std=0.1)
    features = further.pop("features", None) or made_features()
    batches = Batches(made_pairs(), features.variants, settings.batch, settings.alignment, settings.seed)
    validation = further.pop("validation", Validation(np.arange(30, 40), np.arange(30, 40) // 3))
    return Trainer(fusion, features, batches, validation, settings, losses or Losses(single_views=0.5), **further)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_seed_decides_the_weights():
    def trained(seed: int) -> dict[str, torch.Tensor]:
        trainer = made_trainer(SETTINGS.model_copy(update={"seed": seed}), validation=nobody())
        trainer.run()
        return weights(trainer)

    assert_same(trained(0), trained(0))
    assert not torch.equal(trained(0)["out.weight"], trained(1)["out.weight"])


def test_rows_of_no_group_stand_in_the_way_and_do_not_ask():
    # Two products of style 7 at 0 and 40 degrees, one of nobody's between them, and one far away.
    angles = np.radians([0, 40, 30, 90])
    views = dict.fromkeys(loop.VIEWS, np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    group = np.array([7, 7, loop.NONE, loop.NONE])
    found = loop.measured(views, group, ("m-m", "i-t"))
    assert found["m-m"].ranks.reciprocal.tolist() == [0.5, 0.5]  # the one at 30 degrees comes first for both
    assert found["m-m"].pool == 4
    assert found["i-t"].ranks.reciprocal.tolist() == [1, 1]  # its own title
    alone = loop.measured({view: vectors[:2] for view, vectors in views.items()}, group[:2], ("m-m",))
    assert alone["m-m"].ranks.reciprocal.tolist() == [1, 1]
    assert Validation(np.array([5, 3, 8, 9]), group).asking.tolist() == [5, 3]


def nobody() -> Validation:
    return Validation(np.zeros(0, np.int64), np.zeros(0, np.int64))


class KilledError(Exception):
    pass


def kill_at(step: int):
    def watch(trainer: Trainer) -> None:
        if trainer.step == step:
            raise KilledError

    return watch


@pytest.mark.parametrize("step", [0, 3])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, step):
    whole = made_trainer(validation=nobody())
    whole.run()
    killed = made_trainer(validation=nobody(), checkpoint=tmp_path / "checkpoint.safetensors")
    with pytest.raises(KilledError):
        killed.run(kill_at(step))
    resumed = made_trainer(validation=nobody(), checkpoint=tmp_path / "checkpoint.safetensors")
    resumed.run()
    assert_same(weights(whole), weights(resumed))
    assert resumed.history == whole.history
    assert list(tmp_path.iterdir()) == [tmp_path / "checkpoint.safetensors"]


def test_a_parameter_that_no_loss_reaches_is_no_obstacle(tmp_path):
    def trainer() -> Trainer:
        made = made_trainer(validation=nobody(), checkpoint=tmp_path / "checkpoint.safetensors")
        made.model.unused = torch.nn.Parameter(torch.ones(3))
        made.average = made.best = loop.snapshot(made.model)
        return made

    with pytest.raises(KilledError):
        trainer().run(kill_at(3))
    assert len(trainer().run().losses) == 6


def checkpointed(path: Path) -> Path:
    trainer = made_trainer(SETTINGS.model_copy(update={"steps": 3}), checkpoint=path)
    trainer.run()
    return path


def rewritten(path: Path, change) -> None:
    """The checkpoint with its tensors changed, its state kept."""
    header = path.read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.write_bytes(b"\x80\x04\x95ReduceMe"), "is no checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is no checkpoint"),
        (lambda path: save_file({"model.cls": torch.zeros(8)}, path), "is no checkpoint .*state"),
        (lambda path: rewritten(path, lambda t: t.pop("best.cls")), r"best.cls is missing, expected \(8,\)"),
        (
            lambda path: rewritten(path, lambda t: t.update({"model.cls": torch.zeros(9)})),
            r"is \(9,\), expected \(8,\)",
        ),
        (lambda path: rewritten(path, lambda t: t.pop("optimiser.cls.exp_avg")), "optimiser.cls.exp_avg is missing"),
    ],
    ids=["pickle", "cut", "foreign", "missing tensor", "wrong dims", "half an optimiser"],
)
def test_a_corrupt_or_foreign_checkpoint_is_refused(tmp_path, spoil, told):
    path = checkpointed(tmp_path / "checkpoint.safetensors")
    spoil(path)
    with pytest.raises(IntegrityError, match=f"{told}.*remove it"):
        made_trainer(checkpoint=path).run()


# By two processes: a loss of the whole batch each, gradients summed, and then a training.
SHARED = """
import sys
import torch
from safetensors.torch import save_file
sys.path.insert(0, sys.argv[3])
from test_training import SIZES, SETTINGS, made_trainer, nobody, weights
from samestyle.training.distributed import Processes
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
for size in SIZES:
    settings = SETTINGS.model_copy(update={"batch": size})
    trainer = made_trainer(settings, processes=Processes(rank, 2), validation=nobody())
    trainer.loss(trainer.batches.at(0))["total"].backward()
    trainer.processes.sum_gradients(trainer.model.parameters())
    gradients = {f"gradient.{name}": p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.run()
    save_file(gradients | weights(trainer), f"{folder}/{rank}-{size}.safetensors")
torch.distributed.destroy_process_group()
"""
SIZES = (8, 3, 1)  # shares of 4 and 4, of 1 and 2, of none and 1


@pytest.fixture(scope="module")
def by_two(tmp_path_factory) -> Path:
    """Folder of what each of two processes came to."""
    folder = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    words = [[sys.executable, "-c", SHARED, str(rank), str(folder), str(Path(__file__).parent)] for rank in (0, 1)]
    started = [subprocess.Popen(each, env=environment, stderr=subprocess.PIPE, text=True) for each in words]
    ended = [(process.communicate()[1], process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0], ended[0][0] + ended[1][0]
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_two_processes_give_the_gradients_of_one(by_two, size):
    found, other = (load_file(by_two / f"{rank}-{size}.safetensors") for rank in (0, 1))
    alone = made_trainer(SETTINGS.model_copy(update={"batch": size}), validation=nobody())
    alone.loss(alone.batches.at(0))["total"].backward()
    for name, parameter in alone.model.named_parameters():
        torch.testing.assert_close(found[f"gradient.{name}"], parameter.grad, atol=1e-5, rtol=1e-5)
    assert size == 1 or max(parameter.grad.abs().max() for parameter in alone.model.parameters()) > 0.01
    assert_same(
        {n: t for n, t in found.items() if "gradient" in n}, {n: t for n, t in other.items() if "gradient" in n}
    )
    # Weights that no output depends on, as the keys' biases, go where rounding leads them: compare what is encoded.
    alone.run()
    vectors = encode(alone.model, alone.source, np.arange(CONTENTS))
    alone.model.load_state_dict({name: found[name] for name in weights(alone)})
    for view, expected in encode(alone.model, alone.source, np.arange(CONTENTS)).items():
        np.testing.assert_allclose(vectors[view], expected, atol=1e-3)


# A worker has our code on its path, not in its environment; what it starts has the environment alone.
WORKER = """
import subprocess, sys
sys.path.append(sys.argv[1])
from pyspark import cloudpickle
from samestyle.training.process import TrainProcess
sent = cloudpickle.loads(cloudpickle.dumps(TrainProcess("/nowhere")))
assert sent.folder == "/nowhere"
code = "from importlib.util import find_spec; assert find_spec('samestyle.training.process')"
sys.exit(subprocess.run([sys.executable, "-c", code], cwd="/").returncode)
"""


def test_what_a_worker_starts_finds_the_code():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", WORKER, str(ROOT)]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_share_of_a_batch_are_contents_of_the_catalogue_paired_with_themselves():
    own = np.array([40, 41, 42, 43, 44])
    batch = Batches(made_pairs(10), 2, 8, 0.5, 0, own).at(3)
    alone = batch.group < 0
    assert alone.sum() == 4
    assert set(batch.trigger[alone]) < set(own)
    assert (batch.trigger[alone] == batch.offer[alone]).all()
    assert (batch.trigger_variant[alone] != batch.offer_variant[alone]).all()
    assert len(set(batch.group)) == 8  # all of different styles, as far as anybody knows


def test_shares_cover_a_batch():
    for size in (0, 1, 7, 8):
        rows = [row for rank in range(3) for row in range(size)[Processes(rank, 3).share(size)]]
        assert rows == list(range(size))


def test_the_best_weights_are_kept_not_the_last(monkeypatch):
    scores = iter([0.5, 0.9, 0.7])
    seen = []

    def judge(model, source, validation):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"score": next(scores)}

    monkeypatch.setattr(loop, "validate", judge)
    trainer = made_trainer()
    trainer.run()
    assert [look["step"] for look in trainer.history.validation] == [0, 3, 6]
    assert_same(weights(trainer), seen[1])


def test_without_validation_rows_the_last_weights_are_kept():
    trainer, seen = made_trainer(SETTINGS.model_copy(update={"average": 0}), validation=nobody()), []
    trainer.run(lambda trainer: seen.append(weights(trainer)))
    assert_same(weights(trainer), seen[-1])
    assert not torch.equal(seen[0]["cls"], seen[-1]["cls"])


def test_what_is_kept_is_a_moving_average():
    trainer, seen = made_trainer(validation=nobody()), []
    for _ in range(3):
        trainer.train_step()
        seen.append(trainer.model.out.bias.detach().clone())
    expected = torch.zeros_like(seen[0])  # where it starts
    for step, value in enumerate(seen, 1):
        stays = (1 + step) / (10 + step)
        expected = stays * expected + (1 - stays) * value
    torch.testing.assert_close(trainer.average["out.bias"], expected)


def test_training_lowers_the_loss():
    still = {"steps": 40, "token_dropout": 0, "modality_dropout": 0, "alignment": 0}
    trainer = made_trainer(SETTINGS.model_copy(update=still), Losses(), validation=nobody())
    one = trainer.batches.at(0)
    trainer.batches.at = lambda step: one
    losses = [terms["total"] for terms in trainer.run().losses]
    assert losses[-1] < 0.7 * losses[0]


def test_gradients_are_clipped():
    trainer = made_trainer(SETTINGS.model_copy(update={"clip_norm": 0.001}))
    trainer.train_step()
    norm = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm()
    assert norm.item() == pytest.approx(0.001, rel=1e-3)


def test_a_loss_that_is_not_finite_ends_the_training_naming_the_items():
    features = made_features()
    features.image[:, 6] = np.nan
    trainer = made_trainer(features=features, names=lambda rows: [f"item {row}" for row in rows])
    with pytest.raises(SamestyleError, match=r"the loss is not finite: ppm m-m is nan.*item \d+, item \d+"):
        trainer.run()


def test_the_learning_rate_rises_and_falls():
    settings = Train(steps=102, warmup=2, learning_rate=1.0)
    rates = [learning_rate(step, settings) for step in (0, 1, 2, 52, 101)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0], abs=1e-3)


def test_a_batch_larger_than_the_data_shrinks_to_one_pair_a_group():
    batch = Batches(made_pairs(3), 2, 64, 0.25, 0).at(5)
    assert sorted(batch.group) == [0, 1, 2]


def test_pairs_of_one_group_are_refused():
    with pytest.raises(UsageError, match="2 training pairs in 1 style groups: at least two groups"):
        Batches(made_pairs(1), 2, 64, 0.25, 0)


def test_groups_of_one_item_train_its_photo_on_its_title():
    alone = np.arange(2, 12)
    pairs = Pairs(alone, alone, alone, np.zeros(10, np.int64))
    trainer = made_trainer()
    trainer.batches = Batches(pairs, 2, 8, 0.0, 0)
    batch = trainer.batches.at(0)
    assert (batch.trigger == batch.offer).all()
    assert (batch.trigger_variant != batch.offer_variant).all()
    assert len(trainer.run().losses) == SETTINGS.steps


def tensors(features: Features, rows: list[int]) -> dict[str, torch.Tensor]:
    inputs = features.batch(np.array(rows), np.zeros(len(rows), np.int64))
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def test_a_view_does_not_depend_on_what_it_hides():
    fusion, features = made_trainer().model.eval(), made_features()
    other = made_features(seed=1)
    mixed = Features(
        features.image, features.image_tokens, features.has_image, other.text, other.text_tokens, other.text_offsets
    )
    seen = [fusion(**hidden(tensors(source, [2, 3]), "image")) for source in (features, mixed)]
    torch.testing.assert_close(*seen)
    fused = [fusion(**tensors(source, [2, 3])) for source in (features, mixed)]
    assert (fused[0] - fused[1]).abs().max() > 0.1


def test_encoding_leaves_out_what_is_missing_and_a_lone_modality_is_the_fused_vector():
    views = encode(made_trainer().model, made_features(), np.arange(4))
    assert not views["image"][0].any()
    assert not views["text"][1].any()
    np.testing.assert_allclose(views["fused"][0], views["text"][0], atol=1e-6)
    np.testing.assert_allclose(views["fused"][1], views["image"][1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(views["fused"], axis=1), 1, atol=1e-5)


def test_dropout_hides_tokens_and_whole_modalities_but_never_both():
    features = tensors(made_features(), [0, 1, *range(2, 40)])
    draws = Draws.of(np.random.default_rng(0), 40, 5)
    seen = dropped(features, Train(token_dropout=0, modality_dropout=0.8), draws, True)
    photo, title = seen["image_mask"].any(dim=1), seen["text_mask"].any(dim=1)
    assert (photo | title).all()
    assert not (photo & title).all()
    assert (seen["image"][~photo] == 0).all()
    assert title[0]  # has no photo that could stand for it
    assert photo[1]
    thinned = dropped(features, Train(token_dropout=0.5), draws, False)["image_mask"][1:]
    assert 0.4 < thinned.mean() < 0.6


def test_what_is_drawn_for_a_row_is_the_same_in_any_share():
    draws = Draws.of(np.random.default_rng(0), 8, 5)
    whole = dropped(tensors(made_features(), list(range(2, 10))), Train(), draws, True)
    part = dropped(tensors(made_features(), list(range(6, 10))), Train(), draws.share(slice(4, 8)), True)
    length = part["text_mask"].shape[1]
    torch.testing.assert_close(part["image_mask"], whole["image_mask"][4:])
    torch.testing.assert_close(part["text_mask"], whole["text_mask"][4:, :length])


def test_features_come_back_from_parquet_as_they_were(tmp_path):
    random = np.random.default_rng(0)

    def encoded(rows: int, tokens: int) -> Encoded:
        image, text = (random.standard_normal((rows, half)).astype(np.float32) for half in (4, 3))
        photo = random.standard_normal((rows, 16, 6)).astype(np.float16).astype(np.float32)
        words = random.standard_normal((rows, tokens, 5)).astype(np.float16).astype(np.float32)
        return Encoded(image, photo, np.ones((rows, 16), np.float32), text, words, np.ones((rows, tokens), np.float32))

    titles, photos = {0: encoded(1, 3), 2: encoded(1, 1)}, {1: encoded(2, 1), 2: encoded(2, 1)}
    files = []
    for number, rows in enumerate([[2, 0], [3, 1]]):  # 3 has neither photo nor title
        files.append(tmp_path / f"{number}.parquet")
        batch = feature_batch(rows, titles, photos)
        pq.write_table(to_table(batch), files[-1])
    found = pack_features(files, tmp_path / "packed", Widths(4, 3, 6, 5, 2))
    assert found.has_image.tolist() == [False, True, True, False]
    assert found.has_text.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(found.image[:, 2], photos[2].image)
    np.testing.assert_array_equal(found.image_tokens[:, 1], photos[1].image_tokens)
    np.testing.assert_array_equal(found.text[0], titles[0].text[0])
    inputs = found.batch(np.array([2, 3, 0]), np.array([1, 0, 0]))
    np.testing.assert_array_equal(inputs["text_mask"], [[1, 0, 0], [0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(inputs["text_tokens"][2], titles[0].text_tokens[0])
    np.testing.assert_array_equal(inputs["image"][0], photos[2].image[1])


def to_table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])


def picture(seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def test_photos_come_back_from_parquet_as_they_were(tmp_path):
    ids = np.array([101, 7, 102], np.int32)
    columns = {"photo": [to_png(picture(1)), b""], "tokens": [b"", ids.tobytes()]}
    pq.write_table(to_table(as_batch([1, 0], columns)), tmp_path / "0.parquet")
    found = pack_photos([tmp_path / "0.parquet"], tmp_path / "packed", 8)
    inputs = found.batch(np.array([0, 1]), np.array([0, 0]))
    np.testing.assert_array_equal(inputs["images"][1], picture(1))
    assert not inputs["images"][0].any()
    assert inputs["has_image"].tolist() == [False, True]
    assert inputs["ids"].tolist() == [[101, 7, 102], [0, 0, 0]]
    assert inputs["mask"].tolist() == [[1, 1, 1], [0, 0, 0]]
    again, changed = (found.batch(np.array([1]), np.array([variant]))["images"][0] for variant in (0, 5))
    np.testing.assert_array_equal(again, picture(1))
    assert (changed != again).any()


def test_png_keeps_every_pixel():
    np.testing.assert_array_equal(from_png(np.frombuffer(to_png(picture(3)), np.uint8)), picture(3))


def test_variants_are_the_photo_and_changed_ones_the_same_every_time():
    image = picture(0, 32)
    first, again = variants_of(image, 3, seed=4), variants_of(image, 3, seed=4)
    np.testing.assert_array_equal(first[0], image)
    np.testing.assert_array_equal(np.stack(first), np.stack(again))
    assert {variant.shape for variant in first} == {(32, 32, 3)}
    assert (first[1] != image).any()
    assert (first[1] != first[2]).any()
    white = np.full((32, 32, 3), 255, np.uint8)
    assert all((variant == 255).all() for variant in variants_of(white, 4, seed=0))


@pytest.mark.gpu
def test_mixed_precision_on_a_gpu_comes_to_about_the_same():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    trained = []
    for device in ("cpu", "cuda"):
        trainer = made_trainer(validation=nobody())
        trainer = Trainer(
            trainer.model.to(device),
            trainer.source,
            trainer.batches,
            nobody(),
            SETTINGS,
            Losses(),
            Processes(device=torch.device(device)),
        )
        trained.append([terms["total"] for terms in trainer.run().losses])
    assert trained[0] == pytest.approx(trained[1], rel=0.1)
