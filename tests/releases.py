"""Small real releases for tests: real hnswlib files, real item files, a real store."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from samestyle.release.display import SCHEMA, write_display
from samestyle.release.gate import run_gate
from samestyle.release.manifest import (
    EncoderEntry,
    Index,
    Manifest,
    Recall,
    RecallPoint,
    Shard,
    Source,
    Thresholds,
)
from samestyle.release.publish import publish
from samestyle.release.store import LocalStore, ObjectRef
from samestyle.settings import Gate

DIM = 16
M = 8


@dataclass(frozen=True)
class Catalogue:
    """Items 0..n-1: unit vectors (n, DIM) and the rows of the item files."""

    vectors: np.ndarray
    rows: list[dict[str, Any]]


def small_catalogue(nodes: int = 120, seed: int = 0) -> Catalogue:
    """`nodes` random directions; node n has the item i<n>a, every tenth i<n>b too, of another supplier."""
    vectors = np.random.default_rng(seed).normal(size=(nodes, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [
        {
            "label": node,
            "node_key": f"node{node:05d}",
            "item_id": f"i{node:05d}{letter}",
            "alive": True,
            "supplier_id": f"s{(node + offset) % 7}",
            "category": f"home/{'mugs' if node % 3 else 'lamps'}",
            "attributes": {"price": float(node), "in_stock": node % 2 == 0},
        }
        for node in range(nodes)
        for offset, letter in enumerate("ab" if node % 10 == 0 else "a")
    ]
    return Catalogue(vectors, rows)


def split(catalogue: Catalogue, shards: int) -> list[Catalogue]:
    """Node n goes to shard n % shards, where labels start at 0 again."""
    return [
        Catalogue(
            catalogue.vectors[shard::shards],
            [{**row, "label": row["label"] // shards} for row in catalogue.rows if row["label"] % shards == shard],
        )
        for shard in range(shards)
    ]


def write_graph(path: Path, vectors: np.ndarray, m: int = M, space: str = "ip") -> Path:
    graph = hnswlib.Index(space, vectors.shape[1])
    graph.init_index(len(vectors), m, 100, 7)
    graph.add_items(vectors, np.arange(len(vectors)), num_threads=1)
    graph.save_index(str(path))
    return path


def write_items(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def store_shard(store: LocalStore, folder: Path, number: int, part: Catalogue) -> Shard:
    folder.mkdir(parents=True, exist_ok=True)
    graph = store.put_object(write_graph(folder / "graph", part.vectors), ".hnsw")
    items = store.put_object(write_items(folder / "items", part.rows), ".parquet")
    living = [row for row in part.rows if row["alive"]]
    dead = 1 - len({row["label"] for row in living}) / len(part.vectors)
    return Shard(number, None, graph, items, len(part.vectors), len(living), dead, False, 7, "0" * 64, 0)


def store_encoder(store: LocalStore, folder: Path) -> EncoderEntry:
    """A file that stands for an encoder's: searching by vectors does not open it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text('{"name": "none"}')
    return EncoderEntry("encoder1", DIM, {"card.json": store.put_object(folder / "card.json", ".json")}, {})


def store_display(store: LocalStore, path: Path, rows: list[dict[str, Any]]) -> ObjectRef:
    """rows: item_id, and as much as is known of title, image_uri and thumbnail."""
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["item_id"]), SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_display(table.to_batches(), path)
    return store.put_object(path, ".parquet")


def make_manifest(
    store: LocalStore,
    folder: Path,
    release_id: str = "r1",
    parent: str | None = None,
    catalogue: Catalogue | None = None,
    shards: int = 2,
    encoder: EncoderEntry | None = None,
    display: list[dict[str, Any]] | None = None,
) -> Manifest:
    """Store the objects of search/fused, search/image and homepage/fused; the manifest is not judged yet.

    display: rows of its display file, see `store_display`.
    """
    catalogue = catalogue or small_catalogue()
    parts = split(catalogue, shards)
    stored = tuple(store_shard(store, folder / release_id / str(i), i, part) for i, part in enumerate(parts))
    recall = Recall(10, 0.99, 0.97, 1.0, 100)
    encoder = encoder or store_encoder(store, folder / release_id / "encoder")
    curve = (RecallPoint(25, 0.95), RecallPoint(50, 0.99))
    index = Index("search", "fused", encoder.dim, M, 100, 50, recall, Thresholds(0.5, 0.2, 0.9), stored, curve)
    read = len(catalogue.rows)
    return Manifest(
        release_id=release_id,
        created_at=f"2026-01-01T00:00:{int(release_id[1:]):02d}+00:00",
        parent=parent,
        run_id=f"run-{release_id}",
        code_version="0.1.0",
        settings={"env": "demo"},
        settings_digest="0" * 64,
        source=Source("catalogue.parquet", "1"),
        items_version="1",
        encoder=encoder,
        ledger={
            "read": read,
            "fresh": read,
            "reused": 0,
            "stale": 0,
            "degraded": 0,
            "rejected": 0,
            "deleted": 0,
        },
        indexes=(
            index,
            dataclasses.replace(index, view="image"),
            dataclasses.replace(index, module="homepage"),
        ),
        style_recall={"image": 0.7, "fused": 0.8},
        display={"items-00000": store_display(store, folder / release_id / "display", display)} if display else None,
    )


def judged(manifest: Manifest, parent: Manifest | None = None) -> Manifest:
    return dataclasses.replace(manifest, gate=run_gate(manifest, parent, Gate()))


def publish_small(
    store: LocalStore, folder: Path, release_id: str = "r1", parent: str | None = None, **options: Any
) -> Manifest:
    """Make, judge and publish to the channel `current`."""
    manifest = judged(make_manifest(store, folder, release_id, parent, **options))
    publish(store, manifest, "current", parent)
    return manifest


def edit_json(data: bytes, path: tuple[str | int, ...], value: Any) -> bytes:
    """The document with one field set; `...` removes it."""
    tree = json.loads(data)
    place = tree
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(tree).encode()


def flip_bit(path: Path, position: int) -> None:
    """Damage one bit of a file; a negative position counts from the end."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
