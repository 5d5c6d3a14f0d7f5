"""Fit the encoder's projection to the catalogue, without labels, and register the outcome as a candidate.

A sample of `calibrate.rows` contents is drawn by a hash of their keys. Their photos are fetched, decoded and encoded by
the driver, a few at a time: the sample is bounded, whatever the catalogue's size. What comes out is another encoder,
with an id of its own; it is never promoted, nor fitted again, by itself.
"""

from collections.abc import Sequence

from pyspark.sql import SparkSession

from samestyle.progress import say
from samestyle.tables.calibration import calibrate, closing_lines
from samestyle.tables.workshop import Workshop, workshop_main


def run(spark: SparkSession, workshop: Workshop) -> None:
    record = calibrate(workshop)
    workshop.run.write("calibration", record)
    for line in closing_lines(record):
        say(line)


def main(argv: Sequence[str] | None = None) -> int:
    return workshop_main("calibrate", __doc__, run, argv=argv)


if __name__ == "__main__":
    raise SystemExit(main())
