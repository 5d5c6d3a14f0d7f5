"""The whole night: embed what is new, build and measure shards, list neighbours, publish, tidy up."""

from pyspark.sql import SparkSession

from jobs import build_index, embed, evaluate_index, maintain, neighbours, publish
from samestyle.tables.job import job_main
from samestyle.tables.night import Night

#        stage             reads                                  writes
STAGES = (
    ("embed", embed.run),  # catalogue, embeddings, parent's items    embeddings, items
    ("build_index", build_index.run),  # items, embeddings, clicks    shards and item files in the store
    ("evaluate_index", evaluate_index.run),  # shards, items          evaluations
    ("neighbours", neighbours.run),  # shards, items, clicks          neighbours
    ("publish", publish.run),  # everything above                     the release, then the channel
    ("maintain", maintain.run),  # tables, kept releases              smaller tables
)


def run(spark: SparkSession, night: Night) -> None:
    for name, stage in STAGES:
        with night.stage(name):
            stage(spark, night)


def main() -> int:
    return job_main("nightly", __doc__, run, starts=True)


if __name__ == "__main__":
    raise SystemExit(main())
