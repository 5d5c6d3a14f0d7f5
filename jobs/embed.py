"""Embed what is new in the catalogue, and write the day's items."""

from pyspark.sql import SparkSession

from samestyle.tables.changes import (
    RefreshRules,
    check_sums,
    contents_embedded,
    contents_to_attempt,
    count_deleted,
    count_states,
    latest_attempts,
    resolve_items,
    with_bytes,
    with_contents,
    with_duplicates,
    without_bytes,
)
from samestyle.tables.components import Scratch
from samestyle.tables.denials import denied_items
from samestyle.tables.job import job_main
from samestyle.tables.night import Night
from samestyle.tables.preflight import catalogue_facts, check_catalogue
from samestyle.tables.source import read_catalogue, unchanging
from samestyle.tables.waves import embed_waves
from udfs.embed import embed_udf


def run(spark: SparkSession, night: Night) -> None:
    settings, baseline = night.settings, night.baseline()
    source = read_catalogue(spark, settings.catalogue)
    with Scratch(spark, night.run.path / "scratch") as scratch:
        # Read once: everything after this block sees the same rows, whatever becomes of the source.
        with unchanging(spark, settings.catalogue, source.version):
            contents = with_contents(source.rows, settings.embed.max_title_chars)
            rows = scratch.keep(with_duplicates(without_bytes(contents)))
            check_catalogue(catalogue_facts(rows, baseline), settings.preflight)
            rules = RefreshRules(night.started_at, settings.embed.backoff_hours, settings.catalogue.refetch_days)
            todo = contents_to_attempt(rows, latest_attempts(night.embeddings()), rules)
            todo = scratch.keep(with_bytes(todo, contents) if "image" in source.mapped else todo)

        total = embed_waves(todo, night, embed_udf)

        latest = latest_attempts(night.embeddings())
        denied = denied_items(spark, night.store)
        same = night.same_encoder()
        items = resolve_items(rows, latest, baseline, night.run.run_id, night.started_at, same, denied)
        night.lease.check()
        version = night.warehouse.items().overwrite(items, night.run.run_id)
    written = night.warehouse.items().read(version)
    counts = count_states(written) | {"deleted": count_deleted(written, baseline)}
    check_sums(counts)
    night.run.write(
        "embed",
        {
            "items_version": version,
            "source": source.name,
            "source_version": source.version,
            "mapped": sorted(source.mapped),
            "counts": counts,
            "attempted": total,
            "contents_embedded": contents_embedded(night.embeddings(), night.run.run_id),
        },
    )


def main() -> int:
    return job_main("embed", __doc__, run, starts=True)


if __name__ == "__main__":
    raise SystemExit(main())
