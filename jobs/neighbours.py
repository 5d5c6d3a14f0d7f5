"""List neighbours in three bands: the same style at other suppliers, similar, duplicate."""

from pyspark.sql import SparkSession

from samestyle.progress import say
from samestyle.tables.job import job_main
from samestyle.tables.neighbours import all_neighbours
from samestyle.tables.night import Night
from udfs.search import candidate_finder


def run(spark: SparkSession, night: Night) -> None:
    measured = {(i["module"], i["view"]): i for i in night.run.required("evaluate_index")["indexes"]}
    records = [r for r in night.run.required("build_index")["indexes"] if r["view"] == "fused"]
    efs = [measured[r["module"], "fused"]["ef_search"] for r in records]
    table = night.warehouse.neighbours
    if records:
        found = all_neighbours(night, records, efs, candidate_finder)
        night.lease.check()
        table.replace(found, "release_id", night.release_id)
    own = table.read().where(f"release_id = '{night.release_id}'")
    found_rows = {row["module"]: row["count"] for row in own.groupBy("module").count().collect()}
    counts = {r["module"]: found_rows[r["module"]] for r in records if r["module"] in found_rows}
    say("neighbours: " + (", ".join(f"{count:,} of {module}" for module, count in counts.items()) or "none"))
    night.run.write("neighbours", {"rows": counts})


def main() -> int:
    return job_main("neighbours", __doc__, run)


if __name__ == "__main__":
    raise SystemExit(main())
