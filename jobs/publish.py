"""Judge the night by the gate, and hand what passes to serving as an immutable release."""

from dataclasses import asdict

from pyspark.sql import SparkSession

from samestyle.errors import SamestyleError
from samestyle.progress import say
from samestyle.release.gate import failures
from samestyle.release.publish import judge, publish
from samestyle.release.retention import collect_garbage
from samestyle.tables.display import write_display_files
from samestyle.tables.job import job_main
from samestyle.tables.night import Night
from samestyle.tables.publication import judged_manifest, verify_new
from udfs.display import display_writer
from udfs.verification import object_verifier


def run(spark: SparkSession, night: Night) -> None:
    manifest = judged_manifest(night, write_display_files(night, display_writer))
    night.run.write("gate", {"results": [asdict(result) for result in manifest.gate]})
    for result in failures(manifest.gate):
        say(f"gate REFUSED: {result.sentence}")
    say(f"gate: {len(manifest.gate) - len(failures(manifest.gate))} of {len(manifest.gate)} rules passed")
    release = night.settings.release
    judge(manifest, night.force)  # what is refused anyway need not be read
    verify_new(night, manifest, object_verifier)
    verified = manifest.objects()
    publish(night.store, manifest, release.channel, night.channel_named, night.force, verified, night.lease.check)
    forced = night.force if failures(manifest.gate) else None
    night.run.write("publish", {"release_id": manifest.release_id, "channel": release.channel, "forced": forced})
    try:
        removed = collect_garbage(night.store, release.keep, False, 3600 * release.grace_hours, check=night.lease.check)
        say(f"kept the last {release.keep} releases, removed {len(removed.releases)} older ones")
    except SamestyleError as error:  # the release serves already; old ones can wait
        say(f"old releases were not removed: {error}")


def main() -> int:
    return job_main("publish", __doc__, run)


if __name__ == "__main__":
    raise SystemExit(main())
