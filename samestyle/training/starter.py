"""Trains the fusion that the project ships, on open catalogues: python -m samestyle.training.starter --help"""

import argparse
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.catalogue.titles import normalise_title
from samestyle.encoder.export import export_unified
from samestyle.encoder.fusion import Fusion, FusionShape
from samestyle.encoder.runtime import Encoder
from samestyle.encoder.weights import rounded, save_fusion
from samestyle.errors import ImageError, SamestyleError, UsageError
from samestyle.evaluation.bootstrap import interval
from samestyle.evaluation.protocols import Part, Protocol, evaluate_vectors, protocols, read_part
from samestyle.progress import say
from samestyle.settings import Settings, Train, load_settings
from samestyle.training.features import Features, stacked
from samestyle.training.loop import Trainer, Validation, encode
from samestyle.training.pairs import Batches, Pairs, pairs_of_groups
from samestyle.training.projection import DEMO_OFFERS, DEMO_SEED, held_out
from samestyle.training.variants import variants_of

DEMO = "generated demo catalogue"
# Name of a catalogue to the column of its styles, and its licence. None: its offers are one of a kind.
CATALOGUES: dict[str, tuple[str | None, str]] = {
    "magento_luma": ("style_id", "OSL-3.0 or AFL-3.0"),
    "grocery_store": ("group_id", "MIT"),
    "emoji_multivendor": ("group_id", "MIT packages, pictures under their vendors' open licences"),
    "retail_demo_store": (None, "MIT"),
    DEMO: ("style_group", "Apache-2.0"),
}
VALIDATION_SHARE = 0.1
PAIRS_A_GROUP = 50
SHOWN = ("mrr", "recall@1", "recall@10")
MEASURED = "the styles held out of training, as benchmarks/encoder_quality.py measures them; 95 % intervals"
VARIANTS = 2
BATCH = 32


@dataclass(frozen=True)
class Catalogue:
    """Offers by row; label: the style, None where it is one of a kind; held: kept for measuring."""

    name: str
    titles: list[str | None]
    images: list[bytes | None]
    labels: np.ndarray
    suppliers: np.ndarray
    held: np.ndarray


def read_catalogues(data: Path, without: Sequence[str] = ()) -> Iterator[Catalogue]:
    """The catalogues of `data` and the generated one, but for those named. Raises UsageError where one is missing."""
    unknown = sorted(set(without) - set(CATALOGUES))
    if unknown:
        raise UsageError(f"unknown catalogue {', '.join(unknown)}: choose from {', '.join(CATALOGUES)}")
    for name in CATALOGUES:
        if name not in without:
            yield _demo() if name == DEMO else _read(data, name)


def train_starter(
    data: Path, cache: Path, settings: Settings, without: Sequence[str] = ()
) -> tuple[Fusion, dict[str, Any]]:
    """The trained fusion, and what is to be known about it. `cache`: folder of features, used again if it has them."""
    catalogues = list(read_catalogues(data, without))
    features = stacked([_features(catalogue, cache) for catalogue in catalogues])
    pairs, validation = examples(catalogues, settings.train.seed)
    torch.manual_seed(settings.train.seed)
    fusion = Fusion(shape_of(settings.train))
    batches = Batches(pairs, VARIANTS, settings.train.batch, settings.train.alignment, settings.train.seed)
    trainer = Trainer(fusion, features, batches, validation, settings.train, settings.losses)
    trainer.run(_say_progress)
    measured = quality(rounded(fusion), features, catalogues, data)
    return fusion.eval(), about(catalogues, settings) | {"quality": measured}


def shape_of(train: Train) -> FusionShape:
    return FusionShape(width=train.width, layers=train.layers, heads=train.heads, residual_cap=train.residual_cap)


def examples(catalogues: Sequence[Catalogue], seed: int) -> tuple[Pairs, Validation]:
    """Training pairs, and a tenth of the styles to choose weights by; rows count through all catalogues."""
    labels = np.concatenate([np.char.add(f"{c.name}\n", c.labels.astype(str)) for c in catalogues])
    _, group = np.unique(labels, return_inverse=True)
    source = np.repeat(np.arange(len(catalogues)), [len(c.labels) for c in catalogues])
    supplier = np.concatenate([c.suppliers for c in catalogues])
    trained = np.flatnonzero(~np.concatenate([c.held for c in catalogues]))
    groups = np.random.default_rng(1).permutation(np.unique(group[trained]))
    chosen = np.isin(group[trained], groups[: round(VALIDATION_SHARE * len(groups))])
    rows, watched = trained[~chosen], trained[chosen]
    pairs = pairs_of_groups(group[rows], source[rows], PAIRS_A_GROUP, seed, supplier[rows])
    return Pairs(rows[pairs.trigger], rows[pairs.offer], pairs.group, pairs.source), Validation(watched, group[watched])


def about(catalogues: Sequence[Catalogue], settings: Settings) -> dict[str, Any]:
    """What the model card says of training."""
    digest = hashlib.sha256()
    for catalogue in catalogues:
        for row in np.flatnonzero(~catalogue.held):
            digest.update(repr((catalogue.titles[row], catalogue.labels[row])).encode())
            digest.update(hashlib.sha256(catalogue.images[row] or b"").digest())
    used = [
        {"name": c.name, "licence": CATALOGUES[c.name][1], "used": f"{(~c.held).sum()} offers, styles as labels"}
        for c in catalogues
    ]
    chosen = {"train": settings.train.model_dump(), "losses": settings.losses.model_dump()}
    return {"training": used, "training_digest": digest.hexdigest(), "settings": chosen}


def quality(fusion: Fusion, features: Features, catalogues: Sequence[Catalogue], data: Path) -> list[dict[str, Any]]:
    """What the model card says of quality: the protocols of the catalogues that were trained on, on what was held."""
    starts = np.cumsum([0, *(len(catalogue.titles) for catalogue in catalogues)])
    rows = {c.name: start + np.flatnonzero(c.held) for c, start in zip(catalogues, starts, strict=False)}
    chosen = [protocol for protocol in protocols() if protocol.dataset in rows]
    views = {name: encode(fusion, features, rows[name]) for name in {protocol.dataset for protocol in chosen}}
    return [
        {"name": one.name, "protocol": MEASURED, "metrics": metrics_of(one, read_part(data, one), views[one.dataset])}
        for one in chosen
    ]


def metrics_of(protocol: Protocol, part: Part, views: dict[str, np.ndarray]) -> dict[str, dict[str, list[float]]]:
    """Direction to metric to its value and the bounds of its 95 % interval."""
    return {
        direction: {name: list(vars(interval(one.ranks.values[name])).values()) for name in SHOWN}
        for direction, one in evaluate_vectors(protocol, part, views).items()
        if one.aggregates["queries"]
    }


def _read(data: Path, name: str) -> Catalogue:
    path, truth = data / f"{name}.parquet", CATALOGUES[name][0]
    if not path.is_file():
        raise UsageError(f"no {path}: --data must hold {name}.parquet, or leave it out with --without {name}")
    table = pq.read_table(path, columns=["item_id", "title", "image", "supplier_id", *([truth] if truth else [])])
    images, titles, suppliers, ids = (table[c].to_pylist() for c in ("image", "title", "supplier_id", "item_id"))
    # Without a label the empty one, as in measuring: then the groups that are kept are the same.
    labels = np.array([label or "" for label in table[truth].to_pylist()]) if truth else np.array(ids)
    held = held_out(labels) if truth else np.zeros(len(labels), bool)
    return Catalogue(name, list(map(normalise_title, titles)), images, labels, _suppliers(suppliers), held)


def _demo() -> Catalogue:
    from samestyle.demo.catalogue import write_demo_catalogue

    with tempfile.TemporaryDirectory() as scratch:
        shop = write_demo_catalogue(Path(scratch), offers=DEMO_OFFERS, seed=DEMO_SEED, processes=1)
        table = pq.read_table(shop.path)
        paths = [uri and shop.image_root / uri for uri in table["image_uri"].to_pylist()]
        images = [path.read_bytes() if path and path.is_file() else None for path in paths]
    labels, titles = np.array(table["style_group"].to_pylist()).astype(str), table["title"].to_pylist()
    suppliers = _suppliers(table["supplier_id"].to_pylist())
    return Catalogue(DEMO, list(map(normalise_title, titles)), images, labels, suppliers, held_out(labels))


def _suppliers(names: Sequence[str | None]) -> np.ndarray:
    return np.array([name or "" for name in names])


def _features(catalogue: Catalogue, cache: Path) -> Features:
    folder = cache / catalogue.name.replace(" ", "_")
    if not folder.is_dir():
        say(f"features of {catalogue.name}: {len(catalogue.titles)} offers")
        extract(catalogue, base_encoder(cache)).save(folder)
    return Features.open(folder)


def base_encoder(cache: Path) -> Encoder:
    """The frozen backbones: a unified encoder whose fusion adds nothing."""
    folder = cache / "base"
    export_unified(folder, Fusion(FusionShape()).eval(), {})
    return Encoder.load(folder)


def extract(catalogue: Catalogue, encoder: Encoder) -> Features:
    """Features of a whole catalogue, in its order."""
    parts = []
    for start in range(0, len(catalogue.titles), BATCH):
        titles = catalogue.titles[start : start + BATCH]
        photos = [
            _variants(data, encoder.image_size, start + i)
            for i, data in enumerate(catalogue.images[start : start + BATCH])
        ]
        parts.append(_batch_features(encoder, titles, photos))
    return stacked(parts)


def _variants(data: bytes | None, size: int, seed: int) -> list[np.ndarray] | None:
    try:
        return variants_of(decode_image(data, DecodeLimits(), size), VARIANTS, seed) if data else None
    except ImageError:  # the generated catalogue has broken pictures on purpose
        return None


def _batch_features(
    encoder: Encoder, titles: Sequence[str | None], photos: Sequence[list[np.ndarray] | None]
) -> Features:
    # A row with neither has no direction, but keeps its place.
    words = [title if title or photo else "?" for title, photo in zip(titles, photos, strict=True)]
    seen = [
        encoder.features(words, [photo[variant] if photo else None for photo in photos]) for variant in range(VARIANTS)
    ]
    first, tokens = seen[0], [one.image_tokens for one in seen]
    lengths = first.text_mask.sum(axis=1).astype(np.int64)
    return Features(
        np.stack([one.image for one in seen]),
        np.stack([np.broadcast_to(t, (len(titles), 16, t.shape[2])) for t in tokens]).astype(np.float16),
        first.has_image,
        first.text,
        first.text_tokens[first.text_mask > 0].astype(np.float16),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def _say_progress(trainer: Trainer) -> None:
    seen = trainer.history.validation[-1]
    shown = ", ".join(f"{name} {value:.3f}" for name, value in seen.items() if name.endswith("recall@1"))
    say(f"step {trainer.step} of {trainer.settings.steps}: score {seen['score']:.4f}, {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m samestyle.training.starter", description=__doc__)
    parser.add_argument("override", nargs="*", metavar="a.b=value", help="settings of train.* and losses.*")
    parser.add_argument("--data", type=Path, required=True, help="folder with the catalogues as Parquet files")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--cache", type=Path, help="folder that keeps the features for the next training")
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="leave a catalogue out")
    arguments = parser.parse_intermixed_args()
    try:
        settings = load_settings("dev", overrides=arguments.override)
        with tempfile.TemporaryDirectory() as scratch:
            cache = arguments.cache or Path(scratch)
            fusion, facts = train_starter(arguments.data, cache, settings, arguments.without)
        save_fusion(fusion, arguments.out, facts)
    except SamestyleError as error:
        parser.exit(error.exit_code, f"{error}\n")
    say(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
