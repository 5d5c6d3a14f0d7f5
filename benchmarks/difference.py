"""What a day with 1 % new contents costs, against the full day: seconds of the stage `embed`, without start-up.

python benchmarks/difference.py [--rows 100000] [--share 0.01] [--filled] [--keep DIR] [a.b=value ...]

Three nights, each a ./spark-submit.sh of its own: every content is new; 1 % are; none is. Photos are those of the demo,
titles are all different, so that every row is a content; the encoder is the one that set-up exported. The other stages
run as cheaply as they can, as a night needs a release before it. With --filled the first night finds vectors for every
content, drawn by chance: then nothing is compared, and what is left is what a night costs that embeds little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.01, help="of the contents that are new on the second day")
    parser.add_argument("--filled", action="store_true", help="do without the full day: vectors are there already")
    parser.add_argument("--keep", type=Path, help="folder to work in, new or empty, which stays")
    parser.add_argument("settings", nargs="*", help="further settings, such as tables.format=parquet")
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(arguments.keep or temporary), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    days = write_days(folder, arguments.rows, arguments.share)
    if arguments.filled:
        fill(folder, days[0])
    stages = [night(folder, day, arguments.settings) for day in days]
    names = ("filled" if arguments.filled else "every content", f"{arguments.share:.2%} of them", "none")
    print(f"{'new':<14} {'contents':>9} {'stage s':>9} {'embedding s':>12} {'the rest s':>11}")
    for name, (stage, spent) in zip(names, stages, strict=True):
        waves = spent["seconds"]
        print(f"{name:<14} {spent['rows']:>9,} {stage:>9.1f} {waves:>12.1f} {stage - waves:>11.1f}")
    if not arguments.filled:
        print(f"a day with {arguments.share:.2%} new contents costs {stages[1][0] / stages[0][0]:.2%} of a full day")


def write_days(folder: Path, rows: int, share: float) -> list[Path]:
    """Catalogues of three days, the third like the second."""
    demo = write_demo_catalogue(folder / "photos", PHOTOS, progress=print)
    offers = [row for row in catalogue_table(PHOTOS, 1, 7).to_pylist() if row["image_uri"] and row["title"]]
    every = round(1 / share)
    days = []
    for day, changed in enumerate(("", " new", " new"), 1):
        table = [
            {
                "item_id": f"item-{n:09}",
                "title": f"{offers[n % len(offers)]['title']} {n}{changed if n % every == 0 else ''}",
                "image_uri": str(demo.image_root / offers[n % len(offers)]["image_uri"]),
                "image_version": "1",
                "supplier_id": f"supplier-{n % 50}",
                "category": offers[n % len(offers)]["category"],
            }
            for n in range(rows)
        ]
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


def night(folder: Path, day: Path, settings: list[str]) -> tuple[float, dict[str, Any]]:
    """Seconds of the stage, and its record `throughput`."""
    words = [f"paths.root={folder / 'out'}", f"catalogue.path={day}", f"images.roots=[{folder}]"]
    command = [str(ROOT / "spark-submit.sh"), "nightly", "--env", "demo", *words, *CHEAP, *settings]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"the night ended with {done.returncode}:\n{done.stdout[-4000:]}")
    run = RunFolder(max((folder / "out" / "runs").iterdir()))
    return json.loads((run.path / "timings.json").read_text())["embed"], run.read("throughput") or {}


if __name__ == "__main__":
    main()
