"""What a day with 1 % new contents costs, against the full day: seconds of the stage `embed`, start-up apart.

python -m benchmarks.difference [--rows 100000] [--share 0.01] [--photos 0.15] [--filled] [--keep DIR] [a.b=value ...]

Three nights, each a ./spark-submit.sh of its own: every content is new; 1 % are; none is. Photos are those of the demo,
titles are all different, so that every row is a content; the encoder is the one that set-up exported. The other stages
run as cheaply as they can, as a night needs a release before it. With --filled the first night finds vectors for every
content, drawn by chance: then nothing is compared, and what is left is what a night costs that embeds little.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.embed import absolute
from benchmarks.stopwatch import cpu_seconds
from samestyle.demo.catalogue import catalogue_table, write_demo_catalogue
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.sources import default_kind
from samestyle.runs import RunFolder
from samestyle.settings import Catalogue
from samestyle.tables.analysis import local_session
from samestyle.tables.changes import with_contents
from samestyle.tables.schemas import EMBEDDINGS
from samestyle.tables.source import read_catalogue
from samestyle.tables.warehouse import Warehouse

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = 1000  # offers of the demo whose photos are shared out
# One small index, judged by nobody: this is not about the others.
CHEAP = [
    "modules.search.views=[text]",
    "modules.search.m=4",
    "modules.search.ef_construction=8",
    "evaluation.queries=10",
]
CHEAP += [
    "modules.homepage.where='false'",
    "modules.history.where='false'",
    "index.ef_search=[10]",
    "gate.recall_min=0",
]
CHEAP += ["gate.orphans_max=100000000", "neighbours.candidates=2", "neighbours.k=1", "embed.wave_rows=50000"]


class Spent(NamedTuple):
    """What the stage took: seconds by the clock, seconds of CPU, and its record `throughput`."""

    seconds: float
    cpu: float
    throughput: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.01, help="of the contents that are new on the second day")
    parser.add_argument("--photos", type=float, default=1.0, help="share of the contents that have one")
    parser.add_argument("--filled", action="store_true", help="do without the full day: vectors are there already")
    parser.add_argument("--keep", type=absolute, help="folder to work in, new or empty, which stays")
    parser.add_argument("settings", nargs="*", help="further settings, such as tables.format=parquet")
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(arguments.keep or temporary), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    days = write_days(folder, arguments.rows, arguments.share, arguments.photos)
    if arguments.filled:
        fill(folder, days[0])
    load = os.getloadavg()[0]
    nights = [night(folder, day, arguments.settings) for day in days]
    names = ("filled" if arguments.filled else "every content", f"{arguments.share:.2%} of them", "none")
    print(f"{'new':<14} {'contents':>9} {'stage s':>9} {'of CPU':>9} {'embedding s':>12} {'the rest s':>11}")
    for name, one in zip(names, nights, strict=True):
        waves = one.throughput["seconds"]
        told = f"{one.throughput['rows']:>9,} {one.seconds:>9.1f} {one.cpu:>9.1f} {waves:>12.1f}"
        print(f"{name:<14} {told} {one.seconds - waves:>11.1f}")
    if not arguments.filled:
        clock, cpu = (getattr(nights[1], of) / getattr(nights[0], of) for of in ("seconds", "cpu"))
        print(f"a day with {arguments.share:.2%} new contents costs {clock:.2%} of a full day, {cpu:.2%} of its CPU")
    print(f"load before {load:.1f}, after {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


def write_days(folder: Path, rows: int, share: float, photos: float) -> list[Path]:
    """Catalogues of three days, the third like the second; of what is new as many have a photo as of all."""
    demo = write_demo_catalogue(folder / "photos", PHOTOS, progress=print)
    offers = [row for row in catalogue_table(PHOTOS, 1, 7).to_pylist() if row["image_uri"] and row["title"]]
    every = round(1 / share)
    days = []
    for day, changed in enumerate(("", " new", " new"), 1):
        table = []
        for n in range(rows):
            offer, seen = offers[n % len(offers)], n // every % 100 < 100 * photos
            table.append(
                {
                    "item_id": f"item-{n:09}",
                    "title": f"{offer['title']} {n}{changed if n % every == 0 else ''}",
                    "image_uri": str(demo.image_root / offer["image_uri"]) if seen else None,
                    "image_version": "1",
                    "supplier_id": f"supplier-{n % 50}",
                    "category": offer["category"],
                }
            )
        days.append(folder / f"day-{day}.parquet")
        pq.write_table(pa.Table.from_pylist(table), days[-1])
    return days


def fill(folder: Path, day: Path) -> None:
    """A row of `embeddings` with vectors drawn by chance for each content of that day."""
    os.environ["PYSPARK_PYTHON"], os.environ["SAMESTYLE_HOME"] = sys.executable, str(ROOT)
    spark = local_session()
    encoder_id = EncoderFiles.open(ROOT / ".cache" / "encoders" / default_kind()).encoder_id

    def draw(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            vectors = np.random.default_rng(batch.num_rows).normal(size=(batch.num_rows, 256)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            drawn = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 256).cast(pa.list_(pa.float32()))
            yield pa.RecordBatch.from_arrays([*batch.columns, drawn], [*batch.schema.names, "vector"])

    contents = with_contents(read_catalogue(spark, Catalogue(path=str(day))).rows, 512)
    keys = contents.select("content_key", "title_hash", "image_key").distinct()
    drawn = keys.mapInArrow(draw, "content_key string, title_hash string, image_key string, vector array<float>")
    given = {"encoder_id": f"'{encoder_id}'", "outcome": "'embedded'", "transient": "false", "run_id": "'filled'"}
    given |= {"embedded_at": "now()", "image_digest": "image_key"}
    given |= {f"{view}_vector": "vector" for view in ("image", "text", "fused")}
    names = [part.split()[0] for part in EMBEDDINGS.strip().split(",")]
    rows = drawn.selectExpr(*[f"{given.get(n, n if n in keys.columns else 'null')} as {n}" for n in names])
    typed = rows.selectExpr(
        *[f"cast({part.split()[0]} as {part.split()[1]})" for part in EMBEDDINGS.strip().split(",")]
    )
    Warehouse(spark, str(folder / "out"), "delta").embeddings.append(typed)
    spark.stop()


def night(folder: Path, day: Path, settings: list[str]) -> Spent:
    words = [f"paths.root={folder / 'out'}", f"catalogue.path={day}", f"images.roots=[{folder}]"]
    command = [str(ROOT / "spark-submit.sh"), "nightly", "--env", "demo", *words, *CHEAP, *settings]
    runs, log = folder / "out" / "runs", folder / "log"
    before = set(runs.glob("*"))
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        cpu = cpu_of_stage(process, runs, before)
    if process.returncode:
        sys.exit(f"the night ended with {process.returncode}:\n{log.read_text()[-4000:]}")
    run = RunFolder(max(runs.iterdir()))
    return Spent(json.loads((run.path / "timings.json").read_text())["embed"], cpu, run.read("throughput") or {})


def cpu_of_stage(process: subprocess.Popen[bytes], runs: Path, before: set[Path]) -> float:
    """Seconds of CPU, of all its processes, from the record that its new run has begun to that of the stage."""
    spent: dict[str, float] = {}
    while process.poll() is None:
        now = cpu_seconds(process.pid)
        for name in ("start", "embed"):
            if any((run / f"{name}.json").exists() for run in set(runs.glob("*")) - before):
                spent.setdefault(name, now)
        time.sleep(0.2)
    return spent.get("embed", math.nan) - spent.get("start", math.nan)


if __name__ == "__main__":
    main()
