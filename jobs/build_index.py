"""Cut the day's embeddings into HNSW shards, one set a module and view."""

from pyspark.sql import SparkSession

from samestyle.progress import say
from samestyle.tables.indexes import build_index
from samestyle.tables.job import job_main
from samestyle.tables.modules import index_tasks
from samestyle.tables.night import Night
from udfs.shards import shard_builder


def run(spark: SparkSession, night: Night) -> None:
    notes: list[str] = []
    tasks = list(index_tasks(night.settings, night.items(), notes))
    built = [build_index(night, task, shard_builder) for task in tasks]
    notes += [f"index {r['module']}/{r['view']} left out: no item has this view" for r in built if not r["shards"]]
    for note in notes:
        say(note)
    night.run.write("build_index", {"indexes": [record for record in built if record["shards"]], "notes": notes})


def main() -> int:
    return job_main("build_index", __doc__, run)


if __name__ == "__main__":
    raise SystemExit(main())
