"""Making an encoder the current one, once it has vectors for all that the release in service shows.

A run reads `encoders/current` once, when it starts. So a promotion needs no lock and stops no night: a run on its way
ends with the encoder that it began with, and the next one builds every shard with the new one.
"""

import dataclasses
import json
from dataclasses import dataclass

from samestyle.encoder.registry import CURRENT, encoder_key, is_whole, point_to, pointed_to, read_record
from samestyle.errors import IntegrityError, RefusedError
from samestyle.release.publish import load_manifest, read_pointer
from samestyle.release.store import Store

COVERAGE = "coverage.json"


@dataclass(frozen=True)
class Coverage:
    """What `backfill` found at its end. Counts are of distinct contents.

    wanted: those that today's catalogue has for items that the release serves; finished: of these, with an outcome that
    is not a passing failure; rejected: of the finished, without vectors, because photo and title cannot be used.
    gone: those that the release serves and today's catalogue does not have: they leave with the next night anyway.
    """

    release_id: str | None
    items_version: str | None
    source_version: str
    wanted: int
    finished: int
    rejected: int
    gone: int
    run_id: str
    measured_at: str

    @property
    def complete(self) -> bool:
        return self.finished >= self.wanted


def write_coverage(store: Store, encoder_id: str, coverage: Coverage) -> None:
    data = json.dumps(dataclasses.asdict(coverage), indent=2).encode() + b"\n"
    store.put(encoder_key(encoder_id, COVERAGE), data)


def read_coverage(store: Store, encoder_id: str) -> Coverage | None:
    """What `backfill` left of an encoder, None where it never ended. Raises IntegrityError."""
    key = encoder_key(encoder_id, COVERAGE)
    if not store.exists(key):
        return None
    record = read_record(store, key)
    try:
        return Coverage(**record)
    except TypeError as error:
        raise IntegrityError(f"{key} of {store.uri} cannot be read ({error}): {way_out(encoder_id)}") from error


def promote(store: Store, encoder_id: str, channel: str, force_reason: str | None = None) -> str | None:
    """Let `encoders/current` name this encoder, from the next run on; returns the one that it named before.

    channel: the one that the nights publish to; while it is empty, `current` is what they start from. force_reason:
    promote it although contents are missing, as where a supplier's photos never come again; kept in `encoders/current`.
    Raises RefusedError unless every content that the release serves has a finished row of the encoder, IntegrityError
    where the store does not hold the encoder whole, ConflictError where somebody else promoted at the same time.
    """
    pointer = store.find(CURRENT)
    if pointed_to(pointer) == encoder_id:
        return encoder_id
    if not is_whole(store, encoder_id):
        raise IntegrityError(
            f"encoder {encoder_id} is not whole in {store.uri}: register it again with "
            "`samestyle encoders register FOLDER`"
        )
    forced = (force_reason or "").strip() or None
    if forced is None:
        check_covered(store, encoder_id, channel)
    store.swap(CURRENT, pointer, point_to(encoder_id, forced))
    return pointed_to(pointer)


def check_covered(store: Store, encoder_id: str, channel: str) -> None:
    """Raises RefusedError unless the encoder has a finished row for all that the release in service shows."""
    serving = read_pointer(store, channel) or read_pointer(store, "current")
    if serving is None:
        return  # nothing is served, so nothing can be lost
    manifest = load_manifest(store, serving.release_id, serving.manifest_sha256)
    if manifest.encoder.encoder_id == encoder_id:
        return  # it made that release
    refusal = f"encoder {encoder_id} is not promoted, the current one stays: "
    coverage = read_coverage(store, encoder_id)
    if coverage is None:
        raise RefusedError(
            f"{refusal}release {serving.release_id} serves now, and no backfill with this encoder has ended; "
            f"{way_out(encoder_id)}"
        )
    if (coverage.release_id, coverage.items_version) != (serving.release_id, manifest.items_version):
        raise RefusedError(
            f"{refusal}its backfill looked at release {coverage.release_id or 'none'}, {serving.release_id} serves "
            f"now; {way_out(encoder_id)}, which embeds only what came since"
        )
    if not coverage.complete:
        raise RefusedError(
            f"{refusal}{coverage.finished:,} of {coverage.wanted:,} contents have a finished row, all must; "
            f"the others failed for passing reasons: {way_out(encoder_id)}, or promote it with --force REASON"
        )


def way_out(encoder_id: str) -> str:
    return f"run ./spark-submit.sh backfill --encoder {encoder_id}"
