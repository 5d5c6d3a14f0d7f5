"""A release as one folder that needs no store: for other hosts, and for readers in other languages."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from samestyle.errors import IntegrityError, UsageError
from samestyle.release.manifest import MAX_MANIFEST_BYTES, Manifest, manifest_key
from samestyle.release.publish import Verified, known_digest, load_manifest
from samestyle.release.store import ObjectRef, Store, digest_file, reporting


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


def verify_export(folder: str | Path) -> Verified:
    """Compare every file of an export with its manifest, and that with nothing missing, nothing added.

    The manifest is taken as it is: compare its sha256 with the channel's where the export may have been tampered with.
    Raises IntegrityError listing what is wrong, UsageError for a folder that is no export.
    """
    root = Path(folder)
    if not (root / "manifest.json").is_file():
        raise UsageError(f"{root} has no manifest.json: name the folder that `samestyle releases export` wrote")
    with reporting(root):
        if (size := (root / "manifest.json").stat().st_size) > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"manifest.json has {size} bytes, expected at most {MAX_MANIFEST_BYTES}")
        manifest = Manifest.from_json((root / "manifest.json").read_bytes())
    expected = dict(exported_files(manifest))
    lines = {str(Path(name).with_suffix(".jsonl")): name for name in expected if name.endswith(".items.parquet")}
    damage = [found for name, ref in expected.items() if (found := damage_of_file(root / name, name, ref))]
    if not damage:
        damage = [f"{name} is not what {source} says" for name, source in lines.items() if not same(root, name, source)]
    there = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    damage += [f"{name} is none of the release's" for name in sorted(there - {*expected, *lines, "manifest.json"})]
    if damage:
        raise IntegrityError(
            f"the export of release {manifest.release_id} in {root} is damaged: export it again\n  "
            + "\n  ".join(damage[:20])
        )
    return Verified(len(expected), sum(ref.bytes for ref in expected.values()), True)


def damage_of_file(path: Path, name: str, ref: ObjectRef) -> str | None:
    if not path.is_file():
        return f"{name} is missing"
    found = digest_file(path)
    if found == (ref.sha256, ref.bytes):
        return None
    return f"{name} has sha256 {found[0]} and {found[1]} bytes, the manifest says {ref.sha256} and {ref.bytes}"


def same(root: Path, name: str, source: str) -> bool:
    """Whether the JSON lines of an export are those of its item file."""
    if not (root / name).is_file():
        return False
    with tempfile.TemporaryDirectory(prefix="samestyle-verify-") as folder:
        write_lines(root / source, Path(folder) / "lines")
        return digest_file(Path(folder) / "lines") == digest_file(root / name)


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
