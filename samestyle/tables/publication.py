"""From what the stages of a night found out to the manifest of its release."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, replace
from typing import Any

import pyarrow as pa

from samestyle.code import code_version
from samestyle.encoder.registry import local_copy
from samestyle.errors import RefusedError
from samestyle.release.gate import run_gate
from samestyle.release.manifest import EncoderEntry, Manifest, decode
from samestyle.release.publish import require_sound
from samestyle.tables.drift import measure_drift
from samestyle.tables.night import Night
from samestyle.tables.schemas import DAMAGE, OBJECT
from samestyle.tables.thresholds import uncalibrated

Verifier = Callable[..., Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]]


def judged_manifest(night: Night, display: dict[str, Any] | None) -> Manifest:
    """The night's manifest, with the gate's results against the parent. Nothing is written but encoder files.

    display: name to object, see tables.display.
    """
    manifest = replace(assemble(night, display), probes=measure_drift(night))
    return replace(manifest, gate=run_gate(manifest, night.parent, night.settings.gate))


def verify_new(night: Night, manifest: Manifest, verifier: Verifier) -> None:
    """Have executors read back what the parent does not have, and compare every byte with the manifest.

    verifier: udfs.verification.object_verifier. Raises IntegrityError listing what is wrong.
    """
    known = night.parent.objects() if night.parent else {}
    new = [astuple(ref) for key, ref in manifest.objects().items() if key not in known]
    if new:
        tasks = min(len(new), 4 * night.spark.sparkContext.defaultParallelism)
        rows = night.spark.createDataFrame(new, OBJECT).repartition(tasks)
        found = rows.mapInArrow(verifier(night.store), DAMAGE).collect()
        require_sound(manifest, sorted(row["damage"] for row in found))


def assemble(night: Night, display: dict[str, Any] | None) -> Manifest:
    embed, evaluated = night.run.required("embed"), night.run.required("evaluate_index")
    night.run.required("neighbours")  # a release is what all stages of its run made
    if not evaluated["indexes"]:
        counts = embed["counts"]
        raise RefusedError(
            f"there is nothing to publish: {counts['rejected']} of {counts['read']} catalogue rows are rejected, "
            "and no module has an item; the report counts the rejects by reason"
        )
    tree = {
        "release_id": night.release_id,
        "created_at": night.run.summary["started_at"],
        "parent": night.parent.release_id if night.parent else None,
        "run_id": night.run.run_id,
        "code_version": code_version(),
        "settings": night.settings.model_dump(mode="json"),
        "settings_digest": night.settings.digest(),
        "source": {"table": embed["source"], "version": embed["source_version"]},
        "items_version": embed["items_version"],
        "encoder": asdict(encoder_entry(night)),
        "ledger": embed["counts"],
        "indexes": list(index_entries(night, evaluated["indexes"])),
        "style_recall": {view: share["value"] for view, share in evaluated["style_recall"].items()} or None,
        "display": display,
    }
    return decode(Manifest, tree, "")


def encoder_entry(night: Night) -> EncoderEntry:
    """The query encoder, as objects of the store, so that a release is complete by itself."""
    encoder_id = night.encoder.encoder_id
    folder = local_copy(night.store, encoder_id)
    files = night.store.put_folder(folder)
    description = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    return EncoderEntry(encoder_id, night.encoder.load().dim, files, description)


def index_entries(night: Night, evaluated: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Build and measurement of each index, brought together."""
    thresholds = {"fused": night.run.required("evaluate_index")["thresholds"]}
    of_others = asdict(uncalibrated(night.settings.neighbours))
    measured = {(index["module"], index["view"]): index for index in evaluated}
    for record in night.run.required("build_index")["indexes"]:
        index = measured[record["module"], record["view"]]
        recalls = {recall["shard"]: recall for recall in index["shard_recalls"]}
        shards = [shard | recalls.get(shard["shard"], {}) for shard in record["shards"]]
        yield record | index | {"thresholds": thresholds.get(record["view"], of_others), "shards": shards}
