"""Draw training pairs from the click log: what is clicked together, rule by rule, down to groups of one style."""

from collections.abc import Sequence

from pyspark.sql import SparkSession

from samestyle.progress import say
from samestyle.tables.components import Scratch
from samestyle.tables.pair_report import write_pair_report
from samestyle.tables.pairs import with_groups
from samestyle.tables.sampling import check_pairs, closing_lines, describe, find_candidates, write_pairs
from samestyle.tables.workshop import Workshop, workshop_main


def run(spark: SparkSession, workshop: Workshop) -> None:
    with Scratch(spark, workshop.run.path / "scratch") as scratch:
        candidates = find_candidates(workshop, scratch)
        pairs = scratch.keep(with_groups(candidates.accepted, workshop.settings.pairs, scratch))
        record = describe(candidates, pairs)
        workshop.run.write("funnel", record)
        for line in closing_lines(record):
            say(line)
        write_pair_report(workshop, candidates, pairs, record)
        check_pairs(record)
        write_pairs(workshop, pairs)


def main(argv: Sequence[str] | None = None) -> int:
    return workshop_main("sample_pairs", __doc__, run, argv=argv)


if __name__ == "__main__":
    raise SystemExit(main())
