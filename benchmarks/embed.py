"""How fast the embedding job is, as ratios taken in one run: A B A B, medians, start-up apart.

python -m benchmarks.embed device     one device, without Spark, against a bare loop there; --device cpu, cuda, cuda:1
python -m benchmarks.embed vectors    how near the vectors of --device and --precision are to those of the CPU
python -m benchmarks.embed spark      Spark on two cores against a bare loop in two processes, with the real encoder
python -m benchmarks.embed plumbing   rows a second through the engine into Delta, with a model that does nothing
python -m benchmarks.embed decode     the decoder against plain Pillow
python -m benchmarks.embed scale      cost of a row, and peak memory of a worker, from 10,000 rows to 100,000

The photos are those of the demo catalogue, which is drawn into --work on the first use. docs/tuning.md says what the
figures mean. Other work on the machine disturbs them: `load` is what was running besides.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from benchmarks import device
from benchmarks.stopwatch import Stopwatch
from benchmarks.workloads import IdentitySource, Row, bare_embedding, plumbing
from samestyle.catalogue.fetch import FetchPolicy
from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.demo.catalogue import write_demo_catalogue
from samestyle.encoder.pipeline import STAGES, Pipeline
from samestyle.encoder.registry import EncoderFolder
from samestyle.tables.counter import Counter
from samestyle.tables.schemas import ATTEMPT, CONTENT, EMBEDDINGS

ROOT = Path(__file__).resolve().parents[1]
TASK_ROWS = 500
FAST_TASK_ROWS = 5000  # of a model that does nothing, beside which starting a task shows
LARGE = 1200  # pixels of a shop's photo
Rounds = dict[str, list[dict[str, float]]]


def absolute(path: str) -> Path:
    """Photos are named by URIs, and those hold whole paths."""
    return Path(path).absolute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*BENCHMARKS], nargs="?", default="device")
    parser.add_argument(
        "--work", type=absolute, default=ROOT / "data" / "benchmark", help="folder for photos and tables"
    )
    parser.add_argument("--encoder", type=Path, default=ROOT / ".cache" / "encoders" / "unified")
    parser.add_argument("--rows", type=int, help="rows a round (default: 3,000 of spark, 40,000 of plumbing)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--device", default="cpu", help="of `device`: cpu, cuda, cuda:1, or torch, the GPU's code on CPU"
    )
    parser.add_argument("--precision", choices=["fp16", "bf16", "fp32"], default="fp16", help="of a GPU")
    parser.add_argument(
        "--decodes", type=int, help="of `device`: photos decoded at once (default: 2, on a GPU all cores)"
    )
    parser.add_argument("--json", type=Path, help="write everything here")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    result = BENCHMARKS[arguments.what](arguments)
    result |= {"load_before": load, "cores": os.cpu_count(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    print(f"  load before {load:.1f}, {os.cpu_count()} cores", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


# --- what is measured


def device_against_bare(arguments: argparse.Namespace) -> dict[str, Any]:
    """One process on one device. Rows with a photo and a title are read, decoded, encoded; nothing is written."""
    place = "cpu" if arguments.device in ("cpu", "torch") else "cuda"
    rows = demo_rows(arguments.work, arguments.rows or (3000 if place == "cpu" else 40_000))
    decodes = arguments.decodes or (2 if place == "cpu" else os.cpu_count() or 2)
    model = device.loaded(arguments.encoder, arguments.device, arguments.precision)
    how = replace(
        pipeline(arguments.work),
        device=place,
        decodes=decodes,
        fetches=max(16, 2 * decodes),
        batch_size=32 if place == "cpu" else 256,
    )
    ways = {name: partial(on_device, work) for name, work in device.ways(model, how, rows).items()}
    ways["engine"]()  # threads, pinned memory, kernels
    rounds = alternate(ways, arguments.rounds)
    what = f"{len(rows):,} rows, {arguments.encoder.name} on {arguments.device}, {decodes} decoded at once"
    return told(what, rounds, "bare", "engine: floor .90, goal .95")


def vectors_of_device(arguments: argparse.Namespace) -> dict[str, Any]:
    """How near the vectors of --device, in --precision, are to those that ONNX Runtime gives on the CPU."""
    rows = demo_rows(arguments.work, arguments.rows or 64)
    model = device.loaded(arguments.encoder, arguments.device, arguments.precision)
    found = device.cosines(model, arguments.encoder, DecodeLimits(), rows)
    for view, (least, median) in found.items():
        print(f"  {view:<8}cosine at least {least:.6f}, median {median:.6f}", flush=True)
    return {"what": f"{arguments.device}, {arguments.precision}, {len(rows)} rows", "cosines": found}


def on_device(work: Callable[[], int]) -> dict[str, float]:
    return speed(*device.timed(work))


def spark_against_bare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows with a photo and a title, read, decoded, encoded; Spark also writes them into Delta."""
    rows = demo_rows(arguments.work, arguments.rows or 3000)
    folder = str(arguments.encoder)
    with spark_session() as spark, ProcessPoolExecutor(2, get_context("spawn")) as processes:
        frame, embed = contents_frame(spark, arguments.work, rows), real_embed(spark, arguments)
        nothing: list[dict[str, float]] = []

        def by_spark() -> dict[str, float]:
            write(spark, frame.limit(64), embed, arguments.work, tasks=2)  # idle workers end after a minute
            nothing.append(measured(lambda: write(spark, frame.limit(2), embed, arguments.work, tasks=2), 2))
            return measured(lambda: write(spark, frame, embed, arguments.work), len(rows))

        def by_loop() -> dict[str, float]:
            list(processes.map(partial(bare_embedding, folder), [rows[:32], rows[32:64]]))
            taken = list(processes.map(partial(bare_embedding, folder), [rows[::2], rows[1::2]]))
            seconds = max(seconds for seconds, _ in taken)
            return speed(len(rows), seconds, sum(cpu for _, cpu in taken))

        rounds = alternate({"bare": by_loop, "spark": by_spark}, arguments.rounds)
        rounds["apart"] = [less(whole, start) for whole, start in zip(rounds["spark"], nothing, strict=True)]
    print("apart: less a wave of two rows, which is what planning and committing one costs")
    return told(f"{len(rows):,} rows, {arguments.encoder.name}", rounds, "bare", "floor .95, goal .98")


def plumbing_rates(arguments: argparse.Namespace) -> dict[str, Any]:
    """Photos by URI or as bytes through the JVM, or titles alone; three vectors of 256 floats a row into Delta."""
    rows = demo_rows(arguments.work, arguments.rows or 40_000)
    with spark_session() as spark:
        counter, memory = Counter(spark.sparkContext, STAGES), most(spark)
        embed = plumbing(pipeline(arguments.work), counter.add, memory.add)
        frames = {kind: contents_frame(spark, arguments.work, rows, kind) for kind in ("uris", "bytes", "titles")}

        def through(frame: Any) -> dict[str, float]:
            write(spark, frame.limit(512), embed, arguments.work, tasks=2)
            start = measured(lambda: write(spark, frame.limit(2), embed, arguments.work, tasks=2), 2)
            tasks = max(2, len(rows) // FAST_TASK_ROWS)
            return less(measured(lambda: write(spark, frame, embed, arguments.work, tasks), len(rows)), start)

        variants = {kind: partial(through, frame) for kind, frame in frames.items()}
        rounds = alternate(
            variants | {"column": partial(by_column, frames["titles"], arguments.work)}, arguments.rounds
        )
    return told(f"{len(rows):,} rows, identity", rounds, "uris", "floor 8,000, goal 14,000 rows/s by URI")


def decode_speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Photos a second of CPU time, and how near each is to Pillow's bicubic: the demo's, and as shops have them."""
    photos = (Path(path).read_bytes() for _, path in demo_rows(arguments.work, 2000) if path.endswith("jpg"))
    whole = list(islice(filter(is_whole, photos), arguments.rows or 400))
    large = [enlarged(photo, LARGE) for photo in whole[::4]]
    return {
        "demo": decode_ratios(f"{len(whole)} JPEGs of the demo, mostly 600 px", whole, arguments.rounds),
        "large": decode_ratios(f"{len(large)} JPEGs of {LARGE:,} px", large, arguments.rounds),
    }


def decode_ratios(what: str, photos: list[bytes], rounds: int) -> dict[str, Any]:
    ways = {"pillow": by_pillow, "samestyle": by_samestyle, "opencv": by_opencv}
    taken = alternate({name: partial(timed_decode, way, photos) for name, way in ways.items()}, rounds)
    exact = [by_pillow(photo) for photo in photos[:50]]
    for name, way in ways.items():
        error = np.mean(
            [np.square(way(photo) - e.astype(float)).mean() for photo, e in zip(photos, exact, strict=False)]
        )
        print(f"  {name:<12}{10 * np.log10(255**2 / error) if error else np.inf:8.1f} dB of Pillow's")
    return told(what, taken, "pillow", "7 times Pillow expected of large JPEGs", key="cpu_rate")


def scale(arguments: argparse.Namespace) -> dict[str, Any]:
    """The identity model: what grows would show here. A wave of two rows is what starting one costs."""
    sizes = (10_000, 30_000, arguments.rows or 100_000)  # 1,000 take less than planning them varies by
    with spark_session() as spark:
        counter, memory = Counter(spark.sparkContext, STAGES), most(spark)
        embed = plumbing(pipeline(arguments.work), counter.add, memory.add)
        frames = {n: contents_frame(spark, arguments.work, demo_rows(arguments.work, n)) for n in (2, *sizes)}

        def through(rows: int) -> dict[str, float]:
            start = measured(lambda: write(spark, frames[2], embed, arguments.work), 2)
            taken = less(measured(lambda: write(spark, frames[rows], embed, arguments.work), rows), start)
            return taken | {"peak_mib": memory.value}

        through(sizes[-1])  # or the smaller ones pay for what the JVM compiles on its first 100,000 rows
        rounds = alternate({f"{rows:,}": partial(through, rows) for rows in sizes}, arguments.rounds)
    for size, taken in rounds.items():
        print(f"  {size:>9} rows  peak of a worker {max(one['peak_mib'] for one in taken):,.0f} MiB", flush=True)
    return told("identity", rounds, f"{sizes[0]:,}", "cost a row within 10 % from the first to the last")


BENCHMARKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "device": device_against_bare,
    "vectors": vectors_of_device,
    "spark": spark_against_bare,
    "plumbing": plumbing_rates,
    "decode": decode_speed,
    "scale": scale,
}


# --- photos


def demo_rows(work: Path, rows: int) -> list[Row]:
    """(title, path of the photo), over again where the demo has fewer."""
    demo = write_demo_catalogue(work / "catalogue", progress=print)
    table = pq.read_table(demo.path, columns=["title", "image_uri"]).to_pylist()
    whole = [(r["title"], str(demo.image_root / r["image_uri"])) for r in table if r["title"] and r["image_uri"]]
    here = [row for row in whole if "://" not in row[1] and Path(row[1]).is_file()]
    return [here[i % len(here)] for i in range(rows)]


def enlarged(photo: bytes, side: int) -> bytes:
    """A JPEG with its longest side that many pixels."""
    picture, out = Image.open(io.BytesIO(photo)).convert("RGB"), io.BytesIO()
    scale = side / max(picture.size)
    picture.resize([round(old * scale) for old in picture.size], Image.Resampling.LANCZOS).save(out, "JPEG", quality=90)
    return out.getvalue()


def is_whole(photo: bytes) -> bool:
    try:
        by_pillow(photo)
        by_samestyle(photo)
        return cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_REDUCED_COLOR_2) is not None
    except Exception:
        return False


def by_pillow(photo: bytes) -> np.ndarray:
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(photo))).convert("RGB")
    return np.asarray(ImageOps.pad(picture, (224, 224), Image.Resampling.BICUBIC, "white"))


def by_samestyle(photo: bytes) -> np.ndarray:
    return decode_image(photo, DecodeLimits(), 224)


def by_opencv(photo: bytes) -> np.ndarray:
    """At half the size where that is large enough; neither limits nor transparency are looked at."""
    with Image.open(io.BytesIO(photo)) as header:
        longest = max(header.size)
    flag = cv2.IMREAD_REDUCED_COLOR_2 if longest >= 448 else cv2.IMREAD_COLOR
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(photo, np.uint8), flag), cv2.COLOR_BGR2RGB)
    height, width = (max(1, round(side * 224 / max(pixels.shape[:2]))) for side in pixels.shape[:2])
    canvas, top, left = np.full((224, 224, 3), 255, np.uint8), (224 - height) // 2, (224 - width) // 2
    canvas[top : top + height, left : left + width] = cv2.resize(pixels, (width, height))
    return canvas


def timed_decode(way: Callable[[bytes], np.ndarray], photos: list[bytes]) -> dict[str, float]:
    started, spent = time.perf_counter(), time.process_time()
    for photo in photos:
        way(photo)
    return speed(len(photos), time.perf_counter() - started, time.process_time() - spent)


# --- Spark


@contextmanager
def spark_session() -> Iterator[Any]:
    """On two cores, with the settings of conf/spark/dev.conf."""
    from pyspark.sql import SparkSession

    from samestyle.tables.session import adjust

    os.environ.update(
        SPARK_LOCAL_IP="127.0.0.1",
        PYSPARK_PYTHON=sys.executable,
        PYTHONPATH=str(ROOT),
        OMP_NUM_THREADS="1",
    )
    builder = SparkSession.builder.appName("benchmark")
    for line in (ROOT / "conf" / "spark" / "dev.conf").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            builder = builder.config(*line.split(None, 1))
    jars = ",".join(map(str, sorted((ROOT / ".cache" / "jars").glob("*.jar"))))
    builder = builder.config("spark.jars", jars).config("spark.ui.enabled", "false")
    spark = builder.config("spark.sql.shuffle.partitions", 4).master("local[2,4]").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    adjust(spark)
    try:
        yield spark
    finally:
        spark.stop()


def contents_frame(spark: Any, work: Path, rows: list[Row], kind: str = "uris") -> Any:
    """schemas.CONTENT from Parquet, photos by URI, as bytes, or none; kept from one benchmark to the next."""
    from pyspark.sql import functions as F

    path = work / "contents" / f"{kind}-{len(rows)}"
    if not (path / "_SUCCESS").exists():
        told = [(f"{number:064x}", title, photo) for number, (title, photo) in enumerate(rows)]
        frame = spark.createDataFrame(told, "content_key string, title string, photo string")
        if kind == "bytes":
            read = F.udf(lambda photo: Path(photo).read_bytes(), "binary")
            frame = frame.withColumn("image", read("photo"))
        uri = "concat('file://', photo)" if kind == "uris" else "cast(null as string)"
        image = "image" if kind == "bytes" else "cast(null as binary) as image"
        frame.selectExpr(
            "content_key",
            "sha2(title, 256) as title_hash",
            "content_key as image_key",
            "title",
            image,
            f"{uri} as image_uri",
            "cast(null as string) as known_digest",
        ).write.mode("overwrite").parquet(str(path))
    return spark.read.parquet(str(path)).select(*CONTENT)


def pipeline(work: Path) -> Pipeline:
    root = str((work / "catalogue").absolute())
    return Pipeline(FetchPolicy(("file",), (root,), root), DecodeLimits())


def real_embed(spark: Any, arguments: argparse.Namespace) -> Any:
    from udfs.embed import embed_udf

    counter = Counter(spark.sparkContext, STAGES)
    return embed_udf(EncoderFolder(arguments.encoder.absolute()), pipeline(arguments.work), counter.add)


def write(spark: Any, frame: Any, embed: Any, work: Path, tasks: int | None = None) -> None:
    """A wave as samestyle.tables.waves makes it, into Delta."""
    from samestyle.tables.io import Table
    from samestyle.tables.waves import attempt_rows

    tasks = tasks or max(2, round(frame.count() / TASK_ROWS))
    attempts = frame.repartition(tasks).mapInArrow(embed, ATTEMPT)
    shutil.rmtree(work / "tables", ignore_errors=True)  # or the tenth commit writes a checkpoint, and is no measure
    table = Table(spark, str(work / "tables" / "embeddings"), EMBEDDINGS, "delta", ("encoder_id",))
    table.append(attempt_rows(attempts, {"encoder_id": "benchmark", "run_id": "benchmark"}, datetime.now(UTC)))


def by_column(frame: Any, work: Path) -> dict[str, float]:
    """The column UDF around the identity, titles alone: a struct a row through pandas."""
    from udfs.embed import column_udf

    embed, rows = column_udf(IdentitySource(), pipeline(work)), frame.count()

    def append(part: Any, tasks: int) -> dict[str, float]:
        made = part.repartition(tasks).select("content_key", embed("title", "image").alias("made"))
        target = made.select("content_key", "made.*").write.format("delta").mode("append")
        shutil.rmtree(work / "tables", ignore_errors=True)
        return measured(lambda: target.save(str(work / "tables" / "column")), part.count())

    append(frame.limit(512), 2)
    start = append(frame.limit(2), 2)
    return less(append(frame, max(2, rows // FAST_TASK_ROWS)), start)


def most(spark: Any) -> Any:
    """An accumulator that keeps the largest value."""
    from pyspark.accumulators import AccumulatorParam

    class Most(AccumulatorParam):
        def zero(self, value: float) -> float:
            return 0.0

        def addInPlace(self, value1: float, value2: float) -> float:
            return max(value1, value2)

    return spark.sparkContext.accumulator(0.0, Most())


# --- figures


def measured(work: Callable[[], object], rows: int) -> dict[str, float]:
    """CPU seconds are those of this process, its JVM and its workers."""
    watch = Stopwatch()
    work()
    watch.stop()
    return speed(rows, watch.clock, watch.cpu)


def speed(rows: int, seconds: float, cpu: float) -> dict[str, float]:
    return {"seconds": seconds, "cpu": cpu, "rate": rows / seconds, "cpu_rate": rows / max(cpu, 1e-9)}


def less(whole: dict[str, float], start: dict[str, float]) -> dict[str, float]:
    rows = whole["rate"] * whole["seconds"]
    return speed(round(rows), *(whole[key] - start[key] for key in ("seconds", "cpu")))


def alternate(ways: dict[str, Callable[[], dict[str, float]]], rounds: int) -> Rounds:
    """Each way in turn, over again, so that what else the machine does meets all of them."""
    taken: Rounds = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            taken[name].append(way())
            one = taken[name][-1]
            print(f"  round {number + 1} {name:<10}{one['rate']:10,.0f} rows/s {one['cpu']:8.1f} s of CPU", flush=True)
    return taken


def told(what: str, rounds: Rounds, base: str, aim: str, key: str = "rate") -> dict[str, Any]:
    """Medians, and each way's ratio to `base` as the median of the rounds' ratios."""
    print(f"\n{what} ({aim})\n  {'':<12}{'rows/s':>10}{'rows/s of CPU':>15}{'to ' + base:>12}{'by CPU':>9}")
    result = {}
    for name, taken in rounds.items():
        ratios = {
            of: statistics.median(a[of] / b[of] for a, b in zip(taken, rounds[base], strict=True))
            for of in ("rate", "cpu_rate")
        }
        medians = {of: statistics.median(one[of] for one in taken) for of in taken[0]}
        result[name] = medians | {"ratio": ratios["rate"], "cpu_ratio": ratios["cpu_rate"], "rounds": taken}
        print(
            f"  {name:<12}{medians['rate']:>10,.0f}{medians['cpu_rate']:>15,.0f}"
            f"{ratios['rate']:>12.3f}{ratios['cpu_rate']:>9.3f}",
            flush=True,
        )
    return {"what": what, "aim": aim, "compared": key, "ways": result}


if __name__ == "__main__":
    main()
