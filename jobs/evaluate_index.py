"""Measure the shards: recall against exact search, the ef_search that it needs, same-style R@1, thresholds."""

from dataclasses import asdict

from pyspark.sql import SparkSession

from samestyle.progress import say
from samestyle.tables.evaluations import evaluation_rows, measured_index, threshold_rows
from samestyle.tables.indexes import measure_recall, style_recall
from samestyle.tables.job import job_main
from samestyle.tables.night import Night
from samestyle.tables.thresholds import choose_thresholds
from udfs.search import candidate_finder, recall_measurer, vector_sampler


def run(spark: SparkSession, night: Night) -> None:
    records = night.run.required("build_index")["indexes"]
    measurements = measure_recall(night, records, vector_sampler, recall_measurer)
    measured = [measured_index(night.settings, *pair) for pair in zip(records, measurements, strict=True)]
    for index in measured:
        recall, ef = index["recall"], index["ef_search"]
        say(f"recall@{recall['k']} of {index['module']}/{index['view']}: {recall['value']:.4f} at ef {ef}")
    styles = {view: asdict(share) for view, share in style_recall(night, records, candidate_finder).items()}
    bands = choose_thresholds(night, records, [index["ef_search"] for index in measured], candidate_finder)
    say(bands.sentence)
    night.run.write("evaluate_index", {"indexes": measured, "style_recall": styles, **bands.record()})
    table = night.warehouse.evaluations
    found = evaluation_rows(night, records, measured, styles) + threshold_rows(night, bands)
    rows = spark.createDataFrame(found, table.schema)
    night.lease.check()
    table.replace(rows, "run_id", night.run.run_id)


def main() -> int:
    return job_main("evaluate_index", __doc__, run)


if __name__ == "__main__":
    raise SystemExit(main())
