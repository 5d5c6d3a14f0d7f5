"""Embed what the release in service shows with another encoder, while nights go on, so that it can be promoted."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from pyspark.sql import SparkSession

from samestyle.encoder.promotion import write_coverage
from samestyle.encoder.registry import EncoderReference, find_encoder
from samestyle.progress import say
from samestyle.tables.changes import latest_attempts, with_bytes, with_contents, with_duplicates, without_bytes
from samestyle.tables.components import Scratch
from samestyle.tables.coverage import measure_coverage, unfinished
from samestyle.tables.preflight import catalogue_facts, check_catalogue
from samestyle.tables.source import read_catalogue, unchanging
from samestyle.tables.waves import embed_waves
from samestyle.tables.workshop import Workshop, workshop_main
from udfs.embed import embed_udf


def run(spark: SparkSession, workshop: Workshop) -> None:
    store, settings, parent = workshop.store, workshop.settings, workshop.parent
    encoder = EncoderReference(store, find_encoder(store, workshop.arguments.encoder))
    embeddings, items = workshop.warehouse.embeddings_of, workshop.warehouse.items()
    source = read_catalogue(spark, settings.catalogue)
    baseline = items.read(parent.items_version) if parent else items.no_rows()
    with Scratch(spark, workshop.run.path / "scratch") as scratch:
        with unchanging(spark, settings.catalogue, source.version):
            contents = with_contents(source.rows, settings.embed.max_title_chars)
            rows = scratch.keep(with_duplicates(without_bytes(contents)))
            # Half a catalogue would make most of the release look gone, and so every encoder ready.
            check_catalogue(catalogue_facts(rows, baseline), settings.preflight)
            todo = unfinished(rows, latest_attempts(embeddings(encoder.encoder_id)))
            todo = scratch.keep(with_bytes(todo, contents) if "image" in source.mapped else todo)

        attempted = embed_waves(todo, replace(workshop, encoder=encoder), embed_udf)

        latest = latest_attempts(embeddings(encoder.encoder_id))
        coverage = measure_coverage(rows, latest, baseline, parent, source.version, workshop.run.run_id)
    workshop.lease.check()
    write_coverage(store, encoder.encoder_id, coverage)
    workshop.run.write("backfill", {"encoder_id": encoder.encoder_id, "attempted": attempted, **asdict(coverage)})
    say(
        f"backfill of {encoder.encoder_id}: {coverage.finished:,} of {coverage.wanted:,} contents finished, "
        f"{attempted:,} attempted now, {coverage.rejected:,} without vectors, {coverage.gone:,} gone from the catalogue"
    )
    way_on = f"`samestyle encoders promote {encoder.encoder_id}`" if coverage.complete else "run it again for the rest"
    say(f"next: {way_on}")


def main(argv: Sequence[str] | None = None) -> int:
    return workshop_main(
        "backfill",
        __doc__,
        run,
        lambda parser: parser.add_argument("--encoder", metavar="ID", required=True, help="its id, or 4 letters of it"),
        argv,
    )


if __name__ == "__main__":
    raise SystemExit(main())
