"""The gate: may this release serve? Every rule is a function of manifest, parent and limits."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from samestyle.release.manifest import GateResult, Index, Manifest

if TYPE_CHECKING:  # readers import this room and have no pydantic
    from samestyle.settings import Gate

STATES = ("fresh", "reused", "stale", "degraded", "rejected")
Rule = Callable[[Manifest, Manifest | None, "Gate"], Iterator[GateResult]]


def run_gate(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> tuple[GateResult, ...]:
    """All rules on a manifest that lacks only these results; `parent` is what the channel serves now."""
    return tuple(result for rule in RULES for result in rule(manifest, parent, limits))


def failures(results: tuple[GateResult, ...]) -> list[GateResult]:
    """The results that refuse."""
    return [result for result in results if not result.passed]


def at_least(rule: str, value: float, limit: float, what: str, remedy: str) -> GateResult:
    return judged(rule, value >= limit, value, limit, f"{what} is {number(value)}, at least {number(limit)}", remedy)


def at_most(rule: str, value: float, limit: float, what: str, remedy: str) -> GateResult:
    return judged(rule, value <= limit, value, limit, f"{what} is {number(value)}, at most {number(limit)}", remedy)


def judged(rule: str, passed: bool, value: float, limit: float, finding: str, remedy: str) -> GateResult:
    sentence = f"{finding} is asked for" + ("" if passed else f": {remedy}")
    return GateResult(rule, passed, float(value), float(limit), sentence)


def number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4f}"


def name(index: Index) -> str:
    return f"{index.module}/{index.view}"


def recall(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    for index in manifest.indexes:
        yield at_least(
            f"recall {name(index)}",
            index.recall.low,
            limits.recall_min,
            f"recall@{index.recall.k} of {name(index)} is {index.recall.value:.4f} and its lower bound",
            "raise m, ef_construction or index.ef_search and build again",
        )


def shard_recall(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    """The upper bound: of a thousand shards, the lower bound of some would refuse by chance."""
    for index in manifest.indexes:
        measured = {shard.shard: shard.recall_high for shard in index.shards if shard.recall_high is not None}
        if measured:
            worst = min(measured, key=lambda number: (measured[number], number))
            yield at_least(
                f"shards {name(index)}",
                measured[worst],
                limits.recall_min,
                f"of {len(measured)} shards of {name(index)} shard {worst} finds least, and the upper bound of its "
                f"recall@{index.recall.k}",
                "its graph is damaged or torn: `samestyle releases verify`, then build the module anew by another "
                "index.seed",
            )


def slice_recall(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    """The upper bound, as of shards."""
    for index in manifest.indexes:
        if index.recall_slices:
            worst = min(index.recall_slices, key=lambda part: (part.high, part.name))
            yield at_least(
                f"slices {name(index)}",
                worst.high,
                limits.recall_min,
                f"of {len(index.recall_slices)} slices of {name(index)} {worst.by} {worst.name!r} is found least, and "
                f"the upper bound of its recall@{index.recall.k}",
                "raise m, ef_construction or recall_target of the module and build again",
            )


def orphans(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    for index in manifest.indexes:
        yield at_most(
            f"orphans {name(index)}",
            index.orphans,
            limits.orphans_max,
            f"the number of vectors of {name(index)} that cannot be found",
            "raise m or ef_construction and build again",
        )


def enough_items(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    modules = manifest.modules()
    module = "search" if "search" in modules else modules[0]
    yield at_least(
        f"items {module}",
        manifest.module_items(module),
        limits.items_min,
        f"the number of items of {module}",
        "look at the catalogue, the module's filter and the rejects",
    )


def shrinkage(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    for module, before in module_counts(parent).items():
        now = manifest.module_items(module)
        yield at_most(
            f"shrink {module}",
            max(0.0, 1 - now / before),
            limits.shrink_max,
            f"{module} has {now:,} items after {before:,} of {parent_id(parent)}; the share that went",
            "look at the catalogue and the filter; if it is meant, publish with --force and a reason",
        )


def view_shrinkage(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    """A view can vanish while its module keeps its items: a night whose titles are all missing has no text vectors.

    Measured against the module, whose own shrinkage has a rule of its own; the fused view is as full as the module.
    """
    now = {name(index): index.items for index in manifest.indexes}
    before = module_counts(parent)
    for index in parent.indexes if parent else ():
        kept = manifest.module_items(index.module) / before[index.module] if index.items else 0
        if not kept or index.view == "fused":
            continue
        found = now.get(name(index), 0)
        yield at_most(
            f"shrink {name(index)}",
            max(0.0, 1 - found / index.items / kept),
            limits.shrink_max,
            f"{name(index)} has {found:,} items after {index.items:,}; the share that went, beyond its module's,",
            "look at the catalogue's titles and photos; if it is meant, publish with --force and the reason",
        )


def growth(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    for module, before in module_counts(parent).items():
        now = manifest.module_items(module)
        yield at_most(
            f"growth {module}",
            max(0.0, now / before - 1),
            limits.growth_max,
            f"{module} has {now:,} items after {before:,} of {parent_id(parent)}; the share that came",
            "look at the catalogue and the filter; if it is meant, publish with --force and a reason",
        )


def module_counts(parent: Manifest | None) -> dict[str, int]:
    counts = {module: parent.module_items(module) for module in parent.modules()} if parent else {}
    return {module: count for module, count in counts.items() if count}


def parent_id(parent: Manifest | None) -> str:
    return f"release {parent.release_id}" if parent else "no release"


def outcome_shares(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    read = manifest.ledger.get("read", 0)
    for state, limit, remedy in (
        ("rejected", limits.rejected_max, "the report counts the rejects by reason"),
        ("degraded", limits.degraded_max, "look at the photos that could not be read, in the report"),
        ("stale", limits.stale_max, "the image server failed; run again when it answers"),
    ):
        count = manifest.ledger.get(state, 0)
        share = count / read if read else 0.0
        yield at_most(state, share, limit, f"{count:,} of {read:,} catalogue rows are {state}; their share", remedy)


def ledger_sums(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    read, total = manifest.ledger.get("read", 0), sum(manifest.ledger.get(state, 0) for state in STATES)
    parts = " + ".join(f"{manifest.ledger.get(state, 0):,} {state}" for state in STATES)
    finding = f"{parts} is {total:,} catalogue rows, {read:,} were read; the same number"
    yield judged(
        "ledger",
        total == read and read > 0,
        total,
        read,
        finding,
        "a row is in no state or in two, or nothing was read: do not publish, run the night again",
    )


def style(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    if manifest.style_recall and "fused" in manifest.style_recall:
        yield at_least(
            "style fused",
            manifest.style_recall["fused"],
            limits.style_recall_min,
            "same-style R@1 of the fused view",
            "go back to the encoder before, or train it on this catalogue",
        )


def style_against_parent(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    before, now = (parent.style_recall or {}) if parent else {}, manifest.style_recall or {}
    for view in sorted(before.keys() & now.keys()):
        yield at_most(
            f"style {view} against parent",
            max(0.0, before[view] - now[view]),
            limits.style_drop_max,
            f"same-style R@1 of the {view} view is {now[view]:.4f} after {before[view]:.4f} of {parent_id(parent)}; "
            "the difference",
            "go back to the encoder before, or look at what changed in the catalogue's photos and titles",
        )


def encoder_quality(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    for probe in manifest.probes.quality if manifest.probes else ():
        yield at_most(
            f"quality {probe.direction}",
            max(0.0, probe.before - probe.after),
            limits.quality_drop_max,
            f"recall@1 {probe.direction} of the encoder in evaluation {probe.evaluation} is {probe.after:.4f} after "
            f"{probe.before:.4f} of the one before; the difference",
            "promote the encoder before again, or train further",
        )


def sound_vectors(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    for probe in manifest.probes.vectors if manifest.probes else ():
        yield at_most(
            f"vectors {probe.view}",
            probe.bad,
            limits.bad_vectors_max,
            f"of {probe.items:,} {probe.view} vectors of the sample the number that are zero, not finite or not of "
            "length 1",
            "the table of embeddings is damaged: restore a version before, and run again",
        )


def vector_drift(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    remedy = (
        "are photos replaced by a placeholder, titles by another language? If it is meant, use --force and a reason"
    )
    for probe in manifest.probes.vectors if manifest.probes else ():
        for name, value, limit in (
            ("centroid", probe.centroid_shift, limits.centroid_shift_max),
            ("length", probe.norm_shift, limits.norm_shift_max),
        ):
            if value is not None:
                what = (
                    f"over the same {probe.items:,} items the mean {probe.view} {name} against the parent's: its shift"
                )
                yield at_most(f"{name} {probe.view}", value, limit, what, remedy)


def neighbour_drift(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    for probe in manifest.probes.neighbours if manifest.probes else ():
        yield at_least(
            f"neighbours {probe.module}",
            probe.overlap,
            limits.overlap_min,
            f"of {probe.neighbours:,} neighbours that {parent_id(parent)} lists for {probe.items:,} sampled items of "
            f"{probe.module} the share that is found again",
            "look at the report's photo sheets; if the catalogue did change, publish with --force and a reason",
        )


def shard_balance(manifest: Manifest, parent: Manifest | None, limits: "Gate") -> Iterator[GateResult]:
    """Not of a module that is cut by category: its shards are as large as its categories."""
    for index in manifest.indexes:
        if index.shard_by is None:
            largest, mean = max(shard.nodes for shard in index.shards), index.nodes / len(index.shards)
            yield at_most(
                f"balance {name(index)}",
                largest / mean,
                limits.balance_max,
                f"the largest of {len(index.shards)} shards of {name(index)} has {largest:,} nodes, the mean is "
                f"{mean:,.0f}; their ratio",
                "the plan has put too much into one task: build the module anew",
            )


RULES: tuple[Rule, ...] = (
    recall,
    shard_recall,
    slice_recall,
    orphans,
    enough_items,
    shrinkage,
    view_shrinkage,
    growth,
    outcome_shares,
    ledger_sums,
    style,
    style_against_parent,
    encoder_quality,
    sound_vectors,
    vector_drift,
    neighbour_drift,
    shard_balance,
)
