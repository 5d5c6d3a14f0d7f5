"""pyspark's daemon for the suite's Spark: workers are forked with what each of them would read for a second or two."""

import hnswlib  # noqa: F401
import numpy  # noqa: F401
import onnxruntime  # noqa: F401
import pandas  # noqa: F401
import pyarrow.parquet  # noqa: F401
import pyspark.worker  # noqa: F401
from pyspark.daemon import manager

if __name__ == "__main__":
    manager()
