"""Bring the HNSW shards of every module and view up to the day: what is new is built, what is full stays."""

from pyspark.sql import SparkSession

from samestyle.progress import say
from samestyle.tables.building import build_indexes
from samestyle.tables.job import job_main
from samestyle.tables.members import with_attributes
from samestyle.tables.modules import index_tasks
from samestyle.tables.night import Night
from udfs.shards import node_reader, shard_builder


def run(spark: SparkSession, night: Night) -> None:
    notes: list[str] = []
    tasks = list(index_tasks(night.settings, with_attributes(night.items()).columns, notes))
    built = build_indexes(night, tasks, node_reader, shard_builder)
    notes += [f"index {r['module']}/{r['view']} left out: no item has this view" for r in built if not r["shards"]]
    for note in notes:
        say(note)
    indexes = [record for record in built if record["shards"]]
    night.run.write("build_index", {"indexes": indexes, "notes": notes})


def main() -> int:
    return job_main("build_index", __doc__, run)


if __name__ == "__main__":
    raise SystemExit(main())
