"""What was measured, as rows of the table evaluations."""

from dataclasses import asdict
from typing import Any

from samestyle.evaluation.recall import Proportion, smallest_ef
from samestyle.settings import Settings
from samestyle.tables.night import Night

Row = tuple[Any, ...]


def measured_index(settings: Settings, record: dict[str, Any], curve: dict[int, Proportion]) -> dict[str, Any]:
    """What the manifest will say of an index's recall, and the ef_search that its module's target needs."""
    ef = smallest_ef(curve, settings.modules[record["module"]].recall_target)
    return {
        "module": record["module"],
        "view": record["view"],
        "ef_search": ef,
        "recall": {"k": settings.evaluation.k, **asdict(curve[ef])},
        "recall_curve": [{"ef": ef, "recall": recall.value} for ef, recall in curve.items()],
    }


def evaluation_rows(night: Night, measured: list[dict[str, Any]], styles: dict[str, dict[str, Any]]) -> list[Row]:
    """Rows in the order of schemas.EVALUATIONS; the slice `all` is the whole index."""
    head = (night.run.run_id, night.encoder.encoder_id, night.release_id)
    rows = []
    for index in measured:
        name, recall = (index["module"], index["view"], "all"), index["recall"]
        rows.append((*head, *name, f"recall@{recall['k']}", *interval(recall)))
        for point in index["recall_curve"]:
            rows.append(
                (
                    *head,
                    *name,
                    f"recall@{recall['k']} at ef {point['ef']}",
                    point["recall"],
                    recall["queries"],
                    None,
                    None,
                )
            )
    for view, share in styles.items():
        rows.append((*head, None, view, "all", "same-style R@1", *interval(share)))
    return rows


def interval(share: dict[str, Any]) -> Row:
    return share["value"], share["queries"], share["low"], share["high"]
