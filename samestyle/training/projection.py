"""Fits the shipped projection on open catalogues: python -m samestyle.training.projection --data DIR --out FILE"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.catalogue.titles import normalise_title
from samestyle.encoder.calibration import feature_graphs
from samestyle.encoder.export import IMAGE_SIZE, MAX_TOKENS
from samestyle.encoder.preprocessing import load_tokenizer
from samestyle.encoder.sources import Sources
from samestyle.encoder.transform import Transform, to_bytes
from samestyle.errors import ImageError, SamestyleError, UsageError

# Openly licensed only. What a set is measured on (held_out) is not fitted on, and magento_luma not at all.
LICENCES = {
    "grocery_store": "MIT",
    "retail_demo_store": "MIT",
    "emoji_multivendor": "MIT packages, pictures under their vendors' open licences",
    "generated demo catalogue": "Apache-2.0",
}
ROWS_A_SOURCE = 1000
# Few, so that drawings do not crowd out photos: of 2,000 to train on, phone photos of groceries lost 5 points of
# recall@1.
DEMO_OFFERS = 300
# Dimensions. With 128 each this projection loses 4 points of recall@1 on groceries by photo, and wins 1 by title; what
# is left of that after training is in docs/encoder.md.
HALVES = {"image": 160, "text": 96}
# Not the seed of the demo that users see: that one's styles stay unseen here.
DEMO_SEED = 1
HELD_OUT_SHARE = 0.4


@dataclass(frozen=True)
class Source:
    """One catalogue: image bytes and titles, either None where missing; lists of equal length."""

    name: str
    images: list[bytes | None]
    titles: list[str | None]


def held_out(groups: np.ndarray) -> np.ndarray:
    """(rows,) bool: rows kept for measuring; whole groups, 40 % of them, the same every time."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    by_appearance = np.argsort(np.argsort(first))[group]
    kept = np.random.default_rng(0).permutation(len(first))[: round(HELD_OUT_SHARE * len(first))]
    return np.isin(by_appearance, kept)


def read_sources(data: Path) -> Iterator[Source]:
    """At most 1000 rows of each catalogue in `data`, and the generated one; UsageError if one is missing."""
    for name in ("grocery_store", "retail_demo_store", "emoji_multivendor"):
        path = data / f"{name}.parquet"
        if not path.is_file():
            raise UsageError(f"no {path}: --data must hold {name}.parquet")
        table = pq.read_table(path, columns=["image", "title", "group_id"])
        groups = np.array([group or f"row {row}" for row, group in enumerate(table["group_id"].to_pylist())])
        rows = _sample(np.arange(len(groups)) if name == "retail_demo_store" else np.flatnonzero(~held_out(groups)))
        part = table.take(rows)
        yield Source(name, part["image"].to_pylist(), part["title"].to_pylist())
    yield _demo_source()


def fit_transform(sources: list[Source]) -> bytes:
    """A safetensors file with the transform of both sides, and what it was fitted on as metadata."""
    graphs, tokenizer = feature_graphs(), load_tokenizer(Path(Sources.find().tokenizer), MAX_TOKENS)
    counts, image_features, text_features = [], [], []
    for source in sources:
        pictures = list(_pictures(source.images))
        titles = sorted({title for title in map(normalise_title, source.titles) if title})
        image_features.append(graphs["image"].images(pictures, batch_size=16).vector)
        text_features.append(graphs["text"].titles(titles, tokenizer, batch_size=64).vector)
        licence = LICENCES[source.name]
        counts.append(f"{source.name} ({licence}): {len(pictures)} photos, {len(titles)} titles")
        print(counts[-1], flush=True)
    transforms = {
        "image": Transform.fit(np.concatenate(image_features), HALVES["image"]),
        "text": Transform.fit(np.concatenate(text_features), HALVES["text"]),
    }
    return to_bytes(transforms, {"fitted_on": "; ".join(counts), "licence": "Apache-2.0"})


def _sample(rows: np.ndarray) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(rows)[:ROWS_A_SOURCE])


def _demo_source() -> Source:
    from samestyle.demo.catalogue import write_demo_catalogue

    with tempfile.TemporaryDirectory() as scratch:
        demo = write_demo_catalogue(Path(scratch), offers=DEMO_OFFERS, seed=DEMO_SEED, processes=1)
        table = pq.read_table(demo.path, columns=["image_uri", "title"])
        paths = [uri and demo.image_root / uri for uri in table["image_uri"].to_pylist()]
        images = [path.read_bytes() if path and path.is_file() else None for path in paths]
    return Source("generated demo catalogue", images, table["title"].to_pylist())


def _pictures(images: list[bytes | None]) -> Iterator[np.ndarray]:
    for data in dict.fromkeys(image for image in images if image):
        try:
            yield decode_image(data, DecodeLimits(), IMAGE_SIZE)
        except ImageError:  # the generated catalogue has broken pictures on purpose
            continue


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m samestyle.training.projection", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the catalogues as Parquet files")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    arguments = parser.parse_args()
    try:
        data = fit_transform(list(read_sources(arguments.data)))
    except SamestyleError as error:
        parser.exit(error.exit_code, f"{error}\n")
    arguments.out.write_bytes(data)
    print(f"{arguments.out}: {len(data)} bytes")


if __name__ == "__main__":
    main()
