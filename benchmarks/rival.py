"""The embedding job against clip-retrieval's inference, from PyPI, with the same CLIP over the same JPEGs and titles.

python -m benchmarks.rival [small | b32] [--rows 2000] [--rounds 3] [--readers 2]

It makes an environment of its own for clip-retrieval below --work (5 GB, as torch comes with CUDA), and in it a CLIP
with random weights: `small`, where reading and decoding limit, or one as large as ViT-B/32, where the model does. Ours
is its `dual_stream`, by Spark on two cores into Delta; theirs reads tar files and writes numpy files, as it is fastest.
A B A B, medians, start-up apart on both sides. Both make a vector of each photo and of each title, ours the fused one
besides; photos are padded here and cut there, so that only the vectors of titles can be compared.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.embed import (
    ROOT,
    absolute,
    alternate,
    contents_frame,
    demo_rows,
    is_whole,
    less,
    measured,
    real_embed,
    spark_session,
    speed,
    told,
    write,
)
from benchmarks.workloads import Row
from samestyle.catalogue.titles import normalise_title
from samestyle.encoder.dual_stream import export_dual_stream

PACKAGES = ["clip-retrieval==2.45.0", "setuptools<81"]  # `clip` needs pkg_resources
SIDE = Path(__file__).with_name("rival_side.py")
TARS = 8
AIMS = {"small": "floor 2, goal 3 times clip-retrieval", "b32": "no slower than clip-retrieval"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", choices=AIMS, default="small")
    parser.add_argument("--work", type=absolute, default=ROOT / "data" / "benchmark")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--readers", type=int, default=2, help="processes with which clip-retrieval reads photos")
    parser.add_argument("--model", choices=["openai", "hf"], default="openai", help="by which of its loaders")
    parser.add_argument("--json", type=Path, help="write everything here")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    result = compare(arguments)
    result |= {"load_before": load, "cores": os.cpu_count(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    print(f"  load before {load:.1f}, {os.cpu_count()} cores", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    work = arguments.work / "clip-retrieval"
    python, rows = environment(work), jpeg_rows(arguments.work, arguments.rows)
    folder = work / arguments.size
    if not (folder / "openai.pt").exists():
        side(python, "checkpoint", arguments.size, str(folder))
    arguments.encoder = folder / "exported"
    export_dual_stream(arguments.encoder, folder)
    tars = write_tars(work / f"tars-{len(rows)}", rows)
    model = f"openai_clip:{folder}/openai.pt" if arguments.model == "openai" else f"hf_clip:{folder}"

    def theirs() -> dict[str, float]:
        words = ("infer", model, str(folder / "out"), str(arguments.readers), *map(str, tars))
        found = json.loads(side(python, *words).splitlines()[-1])
        return speed(int(found["rows"]), found["seconds"], found["cpu"])

    with spark_session() as spark:
        frame, embed = contents_frame(spark, work, rows), real_embed(spark, arguments)

        def ours() -> dict[str, float]:
            write(spark, frame.limit(64), embed, folder, tasks=2)
            start = measured(lambda: write(spark, frame.limit(2), embed, folder, tasks=2), 2)
            return less(measured(lambda: write(spark, frame, embed, folder), len(rows)), start)

        rounds = alternate({"theirs": theirs, "samestyle": ours}, arguments.rounds)
        check_titles(spark, folder, rows)
    return told(f"{len(rows):,} rows, CLIP {arguments.size}", rounds, "theirs", AIMS[arguments.size])


def environment(work: Path) -> Path:
    """Its Python."""
    python = work / "venv" / "bin" / "python"
    if not (work / "venv" / "ready").exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--clear", "--python", sys.executable, str(work / "venv")], check=True)
        subprocess.run([*uv, "pip", "install", "--python", str(python), *PACKAGES], check=True)
        (work / "venv" / "ready").touch()
    return python


def side(python: Path, *words: str) -> str:
    """What rival_side.py prints, in the other environment and without the network."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    clean |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    done = subprocess.run([str(python), str(SIDE), *words], env=clean, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{SIDE.name} {words[0]} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def jpeg_rows(work: Path, rows: int) -> list[Row]:
    """Those of the demo with a whole JPEG, over again where there are fewer: clip-retrieval stops at a broken one."""
    jpegs = {row: None for row in demo_rows(work, 3000) if row[1].endswith(".jpg")}
    whole = [row for row in jpegs if is_whole(Path(row[1]).read_bytes())]
    return [whole[i % len(whole)] for i in range(rows)]


def write_tars(folder: Path, rows: list[Row]) -> list[Path]:
    tars = [folder / f"{number}.tar" for number in range(TARS)]
    if not tars[-1].exists():
        folder.mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(tars):
            with tarfile.open(path, "w") as tar:
                for place in range(number, len(rows), TARS):
                    title, photo = rows[place]
                    add(tar, f"{place:06}.jpg", Path(photo).read_bytes())
                    add(tar, f"{place:06}.txt", (normalise_title(title) or "").encode())
    return tars


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def check_titles(spark: Any, folder: Path, rows: list[Row]) -> None:
    """Both made the same vectors of the same titles, or the comparison is worth nothing."""
    captions = pq.read_table(folder / "out" / "metadata" / "metadata_0.parquet")["caption"].to_pylist()
    theirs = dict(
        zip(captions, np.load(folder / "out" / "text_emb" / "text_emb_0.npy").astype(np.float32), strict=True)
    )
    titles = {f"{number:064x}": normalise_title(title) or "" for number, (title, _) in enumerate(rows)}
    table = spark.read.format("delta").load(str(folder / "tables" / "embeddings"))
    made = table.select("content_key", "text_vector").limit(len(rows)).collect()
    cosines = [float(np.dot(row["text_vector"], theirs[titles[row["content_key"]]])) for row in made]
    print(f"  vectors of {len(cosines):,} titles: cosine to theirs at least {min(cosines):.5f}")


if __name__ == "__main__":
    main()
