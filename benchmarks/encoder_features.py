"""Retrieval by the late_fusion encoder, with equal and with other weights of its two halves.

python benchmarks/encoder_features.py --data DIR [--encoder FOLDER]

Groups that are measured (40 % of each set) were not fitted on, magento_luma not at all. Recall counts
queries that have a match in the pool; ties go to the first row.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from samestyle.catalogue.images import DecodeLimits, decode_image, image_digest
from samestyle.catalogue.titles import normalise_title
from samestyle.encoder.export import export_late_fusion
from samestyle.encoder.runtime import VIEWS, Encoder
from samestyle.training.projection import held_out

WEIGHTS = (0.4, 0.5, 0.6)


@dataclass(frozen=True)
class Protocol:
    """Queries of one supplier against a pool of another; the same ones where the names are equal."""

    name: str
    dataset: str
    truth: str
    query: str
    pool: str


PROTOCOLS = (
    Protocol("luma, style", "magento_luma", "style_id", "luma", "luma"),
    Protocol("grocery, store test -> train", "grocery_store", "group_id", "instore-test", "instore-train"),
    Protocol("grocery, store -> web", "grocery_store", "group_id", "instore-test", "webshop"),
    Protocol("emoji, google -> fluent3d", "emoji_multivendor", "group_id", "google", "fluent3d"),
)


class Rows:
    """The held-out rows of a set with their vectors."""

    def __init__(self, encoder: Encoder, data: Path, dataset: str, truth: str) -> None:
        table = pq.read_table(data / f"{dataset}.parquet", columns=["title", "image", "supplier_id", truth])
        groups = np.array([group or "" for group in table[truth].to_pylist()])
        part = table.filter(held_out(groups))
        images = [decode_image(data, DecodeLimits(), encoder.image_size) for data in part["image"].to_pylist()]
        titles = [normalise_title(title) for title in part["title"].to_pylist()]
        start = time.perf_counter()
        self.vectors = encoder.encode(titles, images)
        print(f"{dataset}: {len(images) / (time.perf_counter() - start):.0f} products/s, one thread", flush=True)
        self.groups = np.array(part[truth].to_pylist())
        self.suppliers = np.array(part["supplier_id"].to_pylist())
        self.photos = np.array([image_digest(data) for data in part["image"].to_pylist()])


def recall(rows: Rows, vectors: np.ndarray, protocol: Protocol, ks: tuple[int, ...] = (1, 10)) -> str:
    """Recall at each k, and the numbers of queries and pool rows. The query's own photo never counts."""
    query, pool = (np.flatnonzero(rows.suppliers == name) for name in (protocol.query, protocol.pool))
    scores = vectors[query] @ vectors[pool].T
    scores[rows.photos[query][:, None] == rows.photos[pool]] = -np.inf
    same = (rows.groups[query][:, None] == rows.groups[pool]) & np.isfinite(scores)
    found = np.take_along_axis(same, np.argsort(-scores, axis=1, kind="stable"), axis=1)[same.any(axis=1)]
    values = " / ".join(f"{found[:, :k].any(axis=1).mean():.3f}" for k in ks)
    return f"{values} ({len(found)} of {len(pool)})"


def weighted(rows: Rows, image_weight: float) -> np.ndarray:
    """Fused vectors with other weights of the halves; .5 is what the encoder gives."""
    mixed = image_weight * rows.vectors["image"] + (1 - image_weight) * rows.vectors["text"]
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets as Parquet files")
    parser.add_argument("--encoder", type=Path, help="exported encoder (default: export one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.encoder or Path(scratch) / "encoder"
        if not arguments.encoder:
            export_late_fusion(folder)
        encoder = Encoder.load(folder)
    sets: dict[str, Rows] = {}
    for protocol in PROTOCOLS:
        if protocol.dataset not in sets:
            sets[protocol.dataset] = Rows(encoder, arguments.data, protocol.dataset, protocol.truth)
        rows = sets[protocol.dataset]
        for view in VIEWS:
            print(f"  {protocol.name}, {view}: R@1 / R@10 {recall(rows, rows.vectors[view], protocol)}")
        for weight in WEIGHTS:
            value = recall(rows, weighted(rows, weight), protocol)
            print(f"  {protocol.name}, fused with image {weight}: {value}")


if __name__ == "__main__":
    main()
