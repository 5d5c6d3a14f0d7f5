"""Run by test_gpu_stage.py on an executor of its own with three cores and two GPUs: what Spark gives which stage.

Writes rows of the table `embeddings`, whose detail says what their task had, and prints what the tasks of a stage
without a profile had. Spark hands out what the discovery script prints; no GPU is touched.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import SparkSession

from samestyle.encoder.contents import Outcome
from samestyle.encoder.pipeline import Embedded, Pipeline
from samestyle.encoder.preprocessing import VIEWS
from samestyle.settings import load_settings
from samestyle.tables.schemas import CONTENT
from samestyle.tables.warehouse import Warehouse
from samestyle.tables.waves import embed_waves
from udfs.embed import contents_of, outcome_batch, task_gpu

AT_ONCE = {"plain": 3, "gpu": 2}
WAIT_S = 100  # where fewer tasks run at once, they would wait for each other for ever


def meet(folder: Path, stage: str) -> dict[str, Any]:
    """What this task has, once as many of its stage run as should."""
    context = TaskContext.get()
    assert context
    (folder / f"{stage}-{context.partitionId()}").touch()
    until = time.monotonic() + WAIT_S
    while len(list(folder.glob(f"{stage}-*"))) < AT_ONCE[stage]:
        assert time.monotonic() < until, f"fewer than {AT_ONCE[stage]} tasks of the stage {stage} run at once"
        time.sleep(0.05)
    gpus = {name: found.addresses for name, found in context.resources().items()}
    return {"resources": gpus, "cpus": context.cpus()}


def probe(folder: Path) -> Callable[..., Any]:
    """In place of udfs.embed.embed_udf: each content comes back rejected, with what its task had as detail."""

    def make(encoder: object, pipeline: Pipeline, count: object) -> Callable[..., Iterator[pa.RecordBatch]]:
        def embed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            had = meet(folder, "gpu") | {"takes": task_gpu(), "decodes": pipeline.decodes, "device": pipeline.device}
            contents = list(contents_of(batches))
            outcomes = [Outcome("rejected", "probe", json.dumps(had)) for _ in contents]
            zeros = {view: np.zeros((len(contents), 4), np.float32) for view in VIEWS}
            yield outcome_batch(Embedded(contents, outcomes, zeros))

        return embed

    return make


def main(folder: Path) -> None:
    spark = SparkSession.builder.appName("gpu stage").getOrCreate()
    overrides = [f"paths.root={folder}", "tables.format=parquet", "embed.task_rows=2", "embed.task_cores=1"]
    settings = load_settings("dev", overrides=overrides)
    run = SimpleNamespace(run_id="probe", write=lambda *record: None)
    lease, encoder = SimpleNamespace(check=lambda: None), SimpleNamespace(encoder_id="probe")
    warehouse = Warehouse.of(spark, settings)
    by: Any = SimpleNamespace(settings=settings, run=run, lease=lease, encoder=encoder, warehouse=warehouse)
    names = dict.fromkeys(CONTENT, "cast(null as string)") | {"content_key": "cast(id as string)", "title": "'mug'"}
    names["image"] = "cast(null as binary)"
    todo = spark.range(4).selectExpr(*(f"{value} as {name}" for name, value in names.items()))
    embed_waves(todo, by, probe(folder))

    def plain(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        list(batches)
        yield pa.RecordBatch.from_pydict({"had": [json.dumps(meet(folder, "plain"))]})

    had = [json.loads(row.had) for row in spark.range(3, numPartitions=3).mapInArrow(plain, "had string").collect()]
    rows = warehouse.embeddings_of("probe").select("detail").collect()
    print(json.dumps({"gpu": [json.loads(row.detail) for row in rows], "plain": had}))
    spark.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
