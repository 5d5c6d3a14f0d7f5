"""Measure an encoder in all nine directions, on true styles, splits or labelled pairs, and compare it with another."""

from collections.abc import Sequence

from pyspark.sql import SparkSession

from samestyle.tables.encoder_quality import (
    Functions,
    add_arguments,
    chosen_encoders,
    measure_set,
    record,
    say_figures,
    write_json,
)
from samestyle.tables.evaluation_sets import evaluation_sets
from samestyle.tables.quality_report import write_quality_report
from samestyle.tables.workshop import Workshop, workshop_main
from udfs.embed import embed_udf
from udfs.evaluate import best_scorer, rank_counter, top_finder


def run(spark: SparkSession, workshop: Workshop) -> None:
    functions = Functions(embed_udf, best_scorer, rank_counter, top_finder)
    encoders, sets = chosen_encoders(workshop), evaluation_sets(spark, workshop.settings)
    measured = [[measure_set(workshop, encoder, one, functions) for one in sets] for encoder in encoders]
    records = []
    for encoder, results in zip(encoders, measured, strict=True):
        records.append(record(workshop, encoder, [result for result, _ in results]))
        say_figures(records[-1])
    workshop.run.write("evaluation", records[0])
    write_json(workshop.arguments.json, records[0])
    write_quality_report(workshop, sets, records, measured, functions)


def main(argv: Sequence[str] | None = None) -> int:
    return workshop_main("evaluate_encoder", __doc__, run, add_arguments, argv)


if __name__ == "__main__":
    raise SystemExit(main())
