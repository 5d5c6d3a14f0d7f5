"""What was measured, as rows of the table evaluations."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from samestyle.evaluation.queries import Measurement
from samestyle.evaluation.recall import wilson
from samestyle.settings import Settings
from samestyle.tables.night import Night
from samestyle.tables.thresholds import Bands

Row = tuple[Any, ...]
Record = dict[str, Any]


def measured_index(settings: Settings, record: Record, measured: Measurement) -> Record:
    """What the manifest will say of an index's recall, and the ef_search that its module's target needs."""
    ef, curve = measured.ef(settings.modules[record["module"]].recall_target), measured.curve()
    return {
        "module": record["module"],
        "view": record["view"],
        "ef_search": ef,
        "recall": {"k": settings.evaluation.k, **asdict(curve[ef])},
        "recall_curve": [
            {"ef": n, "recall": p.value, "low": p.low, "high": p.high, "compared": measured.compared[n]}
            for n, p in curve.items()
        ],
        "recall_slices": [{"by": by, "name": name, **asdict(p)} for by, name, p in measured.slices(ef)],
        "measured_on": measured.data,
        "shard_recalls": list(shard_recalls(measured.shards[ef], len(measured.queries))),
    }


def shard_recalls(means: dict[int, float], queries: int) -> Iterator[Record]:
    """What the manifest will say of each shard's recall."""
    for number, mean in means.items():
        recall = wilson(mean, queries, looks=len(means))
        yield {"shard": number, "recall": recall.value, "recall_low": recall.low, "recall_high": recall.high}


def evaluation_rows(
    night: Night, records: list[Record], measured: list[Record], styles: dict[str, Record]
) -> list[Row]:
    """Rows in the order of schemas.EVALUATIONS; the slice `all` is the whole index. records: of build_index."""
    rows = [row for record, index in zip(records, measured, strict=True) for row in index_rows(record, index)]
    rows += [(None, view, "all", "same-style R@1", *interval(share)) for view, share in styles.items()]
    return [(night.run.run_id, night.encoder.encoder_id, night.release_id, *row) for row in rows]


def index_rows(record: Record, measured: Record) -> Iterator[Row]:
    """module, view, slice, metric, value, queries, low, high: of an index, its slices and its shards."""
    name, recall = (measured["module"], measured["view"]), measured["recall"]
    metric, queries = f"recall@{recall['k']}", recall["queries"]
    yield (*name, "all", metric, *interval(recall))
    for point in measured["recall_curve"]:
        yield (*name, "all", f"{metric} at ef {point['ef']}", point["recall"], queries, point["low"], point["high"])
        yield (*name, "all", f"compared at ef {point['ef']}", point["compared"], None, None, None)
    for part in measured["recall_slices"]:
        yield (*name, f"{part['by']}/{part['name']}", metric, *interval(part))
    for shard in measured["shard_recalls"]:
        bounds = (shard["recall_low"], shard["recall_high"])
        yield (*name, f"shard/{shard['shard']}", metric, shard["recall"], queries, *bounds)
    for shard in record["shards"]:
        for fact, value in graph_facts(shard).items():
            yield (*name, f"shard/{shard['shard']}", fact, float(value), None, None, None)


def graph_facts(shard: Record) -> Record:
    """Metric to value, of what was found when a shard's graph was built."""
    health = shard.get("health")
    facts = {"orphans": shard["orphans"], "orphans before repair": shard.get("orphans_found")}
    if health:
        facts |= {"reachable": health["reachable"], "unlinked": health["unlinked"], "degree": health["degrees"][2]}
    return {fact: value for fact, value in facts.items() if value is not None}


def threshold_rows(night: Night, bands: Bands) -> list[Row]:
    """What thresholds of same_style reach on the half of the labels that none was fitted on; nothing without labels."""
    head = (night.run.run_id, night.encoder.encoder_id, night.release_id, None, "fused", "all")
    rows: list[Row] = []
    for one in bands.curve:
        for metric in ("precision", "recall"):
            name = f"same_style {metric} at {one.threshold:.2f}"
            rows.append((*head, name, getattr(one, metric), one.pairs, None, None))
    if bands.thresholds.calibration:
        shown = asdict(bands.thresholds.calibration.shown)
        rows.append((*head, "same_style precision", *interval(shown | {"queries": shown["pairs"]})))
    return rows


def interval(share: Record) -> Row:
    return share["value"], share["queries"], share["low"], share["high"]
