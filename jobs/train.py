"""Train an encoder on the pairs of `sample_pairs`, and register it as a candidate beside the one in use."""

from collections.abc import Sequence

from pyspark.sql import SparkSession

from samestyle.progress import say
from samestyle.tables.training import (
    check_encoder,
    closing_lines,
    describe,
    register_candidate,
    train,
    write_start,
)
from samestyle.tables.training_data import prepare
from samestyle.tables.training_report import write_training_report
from samestyle.tables.workshop import Workshop, workshop_main
from samestyle.training.folder import TrainingFolder
from samestyle.training.outcome import read_outcome
from udfs.features import feature_maker, photo_maker


def run(spark: SparkSession, workshop: Workshop) -> None:
    work = TrainingFolder(workshop.run.path)
    check_encoder(workshop)
    data = prepare(workshop, work, (feature_maker, photo_maker))
    write_start(workshop, work)
    train(spark, workshop, work)
    outcome = read_outcome(work)
    record = describe(workshop, register_candidate(workshop, outcome, data), outcome)
    workshop.run.write("training", record)
    for line in closing_lines(record):
        say(line)
    write_training_report(workshop, record, data)
    work.clear()


def main(argv: Sequence[str] | None = None) -> int:
    return workshop_main("train", __doc__, run, argv=argv, continues=True)


if __name__ == "__main__":
    raise SystemExit(main())
