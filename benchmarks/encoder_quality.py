"""Encoders on open catalogues, in the layout of the published table, with what is published beside them.

python benchmarks/encoder_quality.py --data DIR [--encoder FOLDER ...] [--whole-set] [--calibrate SET] [--json FILE]

Measured are the groups that training holds out, 40 % of each set; with --whole-set all of them, for encoders that were
trained on none. Every further encoder is also compared with the first one, query by query. --calibrate measures that
set alone, before and after calibration on all its photos and titles. docs/encoder.md says what is asked, and what is
left out because it would mean nothing.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from samestyle.encoder.calibration import export_calibrated, fit_calibration, pooled_features
from samestyle.encoder.export import export_late_fusion
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.runtime import Encoder
from samestyle.errors import SamestyleError
from samestyle.evaluation.bootstrap import difference
from samestyle.evaluation.directions import DIRECTIONS, Measured
from samestyle.evaluation.protocols import evaluate, protocols, read_part
from samestyle.evaluation.records import METRICS
from samestyle.report.quality import PUBLISHED

CALIBRATED = ("magento_luma", "grocery_store")  # the others have too few photos or titles
Figures = dict[str, dict[str, float]]  # direction -> its aggregates
HEAD = f"  {'setting':<9}" + "".join(f"{name:>8}" for name in ("MRR", "R@1", "R@5", "R@10", "R@20", "queries", "pool"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets as Parquet files")
    parser.add_argument("--encoder", type=Path, nargs="*", default=[], help="exported encoders (default: late_fusion)")
    parser.add_argument("--whole-set", action="store_true", help="all groups, and not only those held out of training")
    parser.add_argument("--calibrate", choices=CALIBRATED, metavar="SET", help=f"one of {', '.join(CALIBRATED)}")
    parser.add_argument("--json", type=Path, help="write everything here")
    arguments = parser.parse_args()
    results, first = {}, None
    try:
        with folders(arguments.encoder) as encoders:
            for folder in encoders:
                if arguments.calibrate:
                    found = measure_calibrated(folder, arguments.data, arguments.whole_set, arguments.calibrate)
                else:
                    measured = measure(folder, arguments.data, arguments.whole_set)
                    first = first or measured
                    show_changes(first, measured)
                    found = {name: answered(directions) for name, directions in measured.items()}
                results[str(folder)] = found
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


def measure(folder: Path, data: Path, whole_set: bool) -> dict[str, dict[str, Measured]]:
    """Every protocol's directions, their figures printed as they come; then means beside the published ones."""
    encoder, start = Encoder.load(folder, threads=1), time.perf_counter()
    print(f"encoder {encoder.encoder_id} ({folder}), {'whole sets' if whole_set else 'held-out groups'}", flush=True)
    results: dict[str, dict[str, Measured]] = {}
    for name, measured in evaluate(encoder.encode, encoder.image_size, data, whole_set=whole_set):
        results[name] = measured
        show(name, answered(measured))
    print(f"\nmean over the sets, one thread {time.perf_counter() - start:.0f} s\n{HEAD}  published")
    counted = [answered(measured) for name, measured in results.items() if "runs" not in name]
    for direction in DIRECTIONS:
        found = [figures[direction] for figures in counted if direction in figures]
        if found:
            published = "".join(f"{value:8.4f}" for value in PUBLISHED.get(direction, ()))
            print(f"{line(direction, mean(found))}  {published}")
    return results


def show_changes(first: dict[str, dict[str, Measured]], second: dict[str, dict[str, Measured]]) -> None:
    """What the second one is better or worse by, where it is another one."""
    for name in first if first is not second else ():
        print(f"\n{name}, against the first encoder")
        for direction in answered(first[name]):
            print(f"  {direction:<9}{change(first[name][direction], second[name][direction])}", flush=True)


def answered(measured: Mapping[str, Measured]) -> Figures:
    return {direction: one.aggregates for direction, one in measured.items() if one.aggregates["queries"]}


def show(name: str, found: Figures) -> None:
    print(f"\n{name}\n{HEAD}")
    for direction, aggregates in found.items():
        print(line(direction, aggregates), flush=True)


def measure_calibrated(folder: Path, data: Path, whole_set: bool, dataset: str) -> dict[str, Figures]:
    """The protocols of one set, with the encoder as it is and calibrated on all photos and titles of the set."""
    chosen = [protocol for protocol in protocols() if protocol.dataset == dataset]
    part, size = read_part(data, chosen[0], whole_set=True), Encoder.load(folder).image_size
    calibration = fit_calibration(pooled_features(zip(part.titles, part.pixels(size), strict=True), size), dataset)
    print(f"{folder}: calibrated on {calibration.counts}, kept as it was: {calibration.kept or 'nothing'}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        calibrated = Path(scratch) / "calibrated"
        export_calibrated(calibrated, EncoderFiles.open(folder), calibration)
        encoders = [Encoder.load(one) for one in (folder, calibrated)]
        before, after = (dict(evaluate(one.encode, size, data, chosen, whole_set, titles=False)) for one in encoders)
    for name in before:
        show(f"{name}, as it is", answered(before[name]))
        show(f"{name}, calibrated", answered(after[name]))
        for direction in answered(before[name]):
            print(f"  {direction:<9}{change(before[name][direction], after[name][direction])}", flush=True)
    runs = (("as it is", before), ("calibrated", after))
    return {f"{name}, {told}": answered(measured) for told, found in runs for name, measured in found.items()}


def change(before: Measured, after: Measured) -> str:
    """The difference of two metrics with its 95 % interval, paired by query."""
    found = {name: difference(*(one.ranks.values[name] for one in (before, after))) for name in ("mrr", "recall@1")}
    return ", ".join(f"{name} {one.mean:+.3f} ({one.low:+.3f} to {one.high:+.3f})" for name, one in found.items())


def mean(found: list[dict[str, float]]) -> dict[str, float]:
    """Each set counts once."""
    means = {metric: float(np.mean([one[metric] for one in found])) for metric in METRICS}
    return means | {name: sum(one[name] for one in found) for name in ("queries", "pool")}


def line(direction: str, aggregates: dict[str, float]) -> str:
    values = "".join(f"{aggregates[metric]:8.4f}" for metric in METRICS)
    return f"  {direction:<9}{values}{aggregates['queries']:8,}{aggregates['pool']:8,}"


if __name__ == "__main__":
    main()
