"""Measure the shards: recall against exact search, the ef_search that it needs, same-style R@1."""

from dataclasses import asdict

from pyspark.sql import SparkSession

from samestyle.evaluation.recall import smallest_ef
from samestyle.progress import say
from samestyle.tables.evaluations import evaluation_rows
from samestyle.tables.indexes import measure_recall, style_recall
from samestyle.tables.job import job_main
from samestyle.tables.night import Night
from udfs.search import candidate_finder, recall_measurer, vector_sampler


def run(spark: SparkSession, night: Night) -> None:
    records, measured = night.run.required("build_index")["indexes"], []
    for record in records:
        curve = measure_recall(night, record, vector_sampler, recall_measurer)
        ef = smallest_ef(curve, night.settings.modules[record["module"]].recall_target)
        say(
            f"recall@{night.settings.evaluation.k} of {record['module']}/{record['view']}: {curve[ef].value:.4f} at ef {ef}"
        )
        recall = {"k": night.settings.evaluation.k, **asdict(curve[ef])}
        points = [{"ef": e, "recall": point.value} for e, point in curve.items()]
        measured.append(
            {
                "module": record["module"],
                "view": record["view"],
                "ef_search": ef,
                "recall": recall,
                "recall_curve": points,
            }
        )
    styles = {view: asdict(share) for view, share in style_recall(night, records, candidate_finder).items()}
    night.run.write("evaluate_index", {"indexes": measured, "style_recall": styles})
    table = night.warehouse.evaluations
    table.append(spark.createDataFrame(evaluation_rows(night, measured, styles), table.schema))


def main() -> int:
    return job_main("evaluate_index", __doc__, run)


if __name__ == "__main__":
    raise SystemExit(main())
