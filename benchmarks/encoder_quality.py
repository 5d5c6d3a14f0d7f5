"""Encoders on open catalogues, in the layout of the published table, with what is published beside them.

python benchmarks/encoder_quality.py --data DIR [--encoder FOLDER ...] [--whole-set] [--json FILE]

Measured are the groups that training holds out, 40 % of each set; with --whole-set all of them, for encoders that were
trained on none. docs/encoder.md says what is asked, and what is left out because it would mean nothing.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from samestyle.encoder.export import export_late_fusion
from samestyle.encoder.runtime import Encoder
from samestyle.errors import SamestyleError
from samestyle.evaluation.directions import DIRECTIONS
from samestyle.evaluation.protocols import evaluate
from samestyle.evaluation.records import METRICS
from samestyle.report.quality import PUBLISHED

Figures = dict[str, dict[str, float]]  # direction -> its aggregates
HEAD = f"  {'setting':<9}" + "".join(f"{name:>8}" for name in ("MRR", "R@1", "R@5", "R@10", "R@20", "queries", "pool"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets as Parquet files")
    parser.add_argument("--encoder", type=Path, nargs="*", default=[], help="exported encoders (default: late_fusion)")
    parser.add_argument("--whole-set", action="store_true", help="all groups, and not only those held out of training")
    parser.add_argument("--json", type=Path, help="write everything here")
    arguments = parser.parse_args()
    results = {}
    try:
        with folders(arguments.encoder) as encoders:
            for folder in encoders:
                results[str(folder)] = measure(folder, arguments.data, arguments.whole_set)
    except SamestyleError as error:
        parser.exit(error.exit_code, f"{error}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


@contextmanager
def folders(named: list[Path]) -> Iterator[list[Path]]:
    """The encoders named, or late_fusion, exported for the occasion."""
    with tempfile.TemporaryDirectory() as scratch:
        if not named:
            export_late_fusion(Path(scratch) / "late_fusion")
        yield named or [Path(scratch) / "late_fusion"]


def measure(folder: Path, data: Path, whole_set: bool) -> dict[str, Figures]:
    """Every protocol's figures, printed as they come; then their means beside the published ones."""
    encoder, start = Encoder.load(folder, threads=1), time.perf_counter()
    print(f"encoder {encoder.encoder_id} ({folder}), {'whole sets' if whole_set else 'held-out groups'}", flush=True)
    results: dict[str, Figures] = {}
    for name, measured in evaluate(encoder.encode, encoder.image_size, data, whole_set=whole_set):
        results[name] = {d: one.aggregates for d, one in measured.items() if one.aggregates["queries"]}
        print(f"\n{name}\n{HEAD}")
        for direction, aggregates in results[name].items():
            print(line(direction, aggregates), flush=True)
    print(f"\nmean over the sets, one thread {time.perf_counter() - start:.0f} s\n{HEAD}  published")
    counted = [figures for name, figures in results.items() if "runs" not in name]
    for direction in DIRECTIONS:
        found = [figures[direction] for figures in counted if direction in figures]
        if found:
            published = "".join(f"{value:8.4f}" for value in PUBLISHED.get(direction, ()))
            print(f"{line(direction, mean(found))}  {published}")
    return results


def mean(found: list[dict[str, float]]) -> dict[str, float]:
    """Each set counts once."""
    means = {metric: float(np.mean([one[metric] for one in found])) for metric in METRICS}
    return means | {name: sum(one[name] for one in found) for name in ("queries", "pool")}


def line(direction: str, aggregates: dict[str, float]) -> str:
    values = "".join(f"{aggregates[metric]:8.4f}" for metric in METRICS)
    return f"  {direction:<9}{values}{aggregates['queries']:8,}{aggregates['pool']:8,}"


if __name__ == "__main__":
    main()
