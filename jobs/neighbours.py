"""List neighbours in three bands: the same style at other suppliers, similar, duplicate."""

from dataclasses import asdict

from pyspark.sql import SparkSession

from samestyle.progress import say
from samestyle.release.manifest import Thresholds, decode
from samestyle.tables.job import job_main
from samestyle.tables.neighbours import count_rows, write_neighbours
from samestyle.tables.night import Night
from udfs.search import candidate_finder, item_reader


def run(spark: SparkSession, night: Night) -> None:
    evaluated = night.run.required("evaluate_index")
    measured = {(index["module"], index["view"]): index for index in evaluated["indexes"]}
    records = [r for r in night.run.required("build_index")["indexes"] if r["view"] == "fused"]
    efs = [measured[r["module"], "fused"]["ef_search"] for r in records]
    thresholds = decode(Thresholds, evaluated["thresholds"], "thresholds")
    plans = write_neighbours(night, records, efs, thresholds, candidate_finder, item_reader) if records else []
    counts = count_rows(night)
    say("neighbours: " + (", ".join(f"{count:,} of {module}" for module, count in counts.items()) or "none"))
    night.run.write("neighbours", {"rows": counts, "plans": [asdict(plan) for plan in plans]})


def main() -> int:
    return job_main("neighbours", __doc__, run)


if __name__ == "__main__":
    raise SystemExit(main())
