"""A release as one folder that needs no store: for other hosts, and for readers in other languages."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from samestyle.errors import UsageError
from samestyle.release.manifest import Manifest, manifest_key
from samestyle.release.publish import known_digest, load_manifest
from samestyle.release.store import ObjectRef, Store, reporting


def export_release(store: Store, release_id: str, folder: str | Path) -> Manifest:
    """Write a release to a folder that is not there yet or empty; it appears complete or not at all.

    <module>/<view>/shard-00000.hnsw, .items.parquet and .items.jsonl; manifest.json; encoder/; display/.
    Raises UsageError for a folder in use, IntegrityError for a damaged object, StoreError for a full disk.
    """
    manifest = load_manifest(store, release_id, known_digest(store, release_id))
    target = Path(folder).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} is there already: name a new folder, or an empty one")
    with reporting(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write_files(store, manifest, staging)
        with reporting(target):
            staging.chmod(0o755)
            os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def write_files(store: Store, manifest: Manifest, folder: Path) -> None:
    for name, ref in exported_files(manifest):
        path = folder / name
        with reporting(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        store.get_object(ref, path)
        if name.endswith(".items.parquet"):
            write_lines(path, path.with_suffix(".jsonl"))
    with reporting(folder):
        (folder / "manifest.json").write_bytes(store.get(manifest_key(manifest.release_id)))


def exported_files(manifest: Manifest) -> Iterator[tuple[str, ObjectRef]]:
    """(path below the folder, object) of everything but the manifest."""
    for index in manifest.indexes:
        for shard in index.shards:
            stem = f"{index.module}/{index.view}/shard-{shard.shard:05d}"
            yield f"{stem}.hnsw", shard.graph
            yield f"{stem}.items.parquet", shard.items_file
    for name, ref in manifest.encoder.files.items():
        yield f"encoder/{name}", ref
    for name, ref in (manifest.display or {}).items():
        yield f"display/{name}{Path(ref.key).suffix}", ref


def write_lines(items: Path, path: Path) -> None:
    """The item file as JSON lines, one an item; times as text."""
    with reporting(path), open(path, "w", encoding="utf-8") as stream:
        for batch in pq.ParquetFile(items).iter_batches():
            for row in batch.to_pylist():
                stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
