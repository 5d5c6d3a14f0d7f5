"""List every trigger's neighbours by band: the same style at other suppliers, similar products, duplicates."""

from pyspark.sql import SparkSession

from samestyle.progress import say
from samestyle.tables.job import job_main
from samestyle.tables.neighbours import module_neighbours, own_rows
from samestyle.tables.night import Night
from udfs.search import candidate_finder


def run(spark: SparkSession, night: Night) -> None:
    table, counts = night.warehouse.neighbours, {}
    measured = night.run.required("evaluate_index")["indexes"]
    efs = {(index["module"], index["view"]): index["ef_search"] for index in measured}
    for record in night.run.required("build_index")["indexes"]:
        if record["view"] != "fused":
            continue
        night.lease.check()
        table.append(module_neighbours(night, record, efs[record["module"], "fused"], candidate_finder))
        counts[record["module"]] = table.read().where(own_rows(record["module"], night.release_id)).count()
        say(f"neighbours of {record['module']}: {counts[record['module']]:,} rows")
    night.run.write("neighbours", {"rows": counts})


def main() -> int:
    return job_main("neighbours", __doc__, run)


if __name__ == "__main__":
    raise SystemExit(main())
