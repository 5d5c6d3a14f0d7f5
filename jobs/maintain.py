"""Keep the tables small: join small files, remove vectors that nothing uses and files that nothing reads."""

from pyspark.sql import SparkSession

from samestyle.tables.job import job_main
from samestyle.tables.maintenance import maintain
from samestyle.tables.night import Night


def run(spark: SparkSession, night: Night) -> None:
    night.run.write("maintain", maintain(night))


def main() -> int:
    return job_main("maintain", __doc__, run)


if __name__ == "__main__":
    raise SystemExit(main())
