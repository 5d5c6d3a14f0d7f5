"""How tonight's items differ from those that the parent release was made from: counts, and a few to look at."""

from collections.abc import Callable, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F

from samestyle.report.report import Change, Product

SHOWN = 8  # of each kind
FIELDS = ("item_id", "title", "image_uri", "supplier_id", "category", "state", "reason", "detail", "attributes")
FACTS = ("supplier_id", "category", "attributes")
Tiles = Callable[[Sequence[Row]], list[tuple[Row, Product]]]


def turnover(before: DataFrame, now: DataFrame, tiles: Tiles) -> tuple[Change, ...]:
    """One entry for each kind of change that there is, and one for the items that are as they were.

    before, now: the tables of items of the parent and of tonight; tiles: rows with their products.
    """
    pairs = compared(served(before, "old"), served(now, "new"))
    counts = {row["kind"]: row["count"] for row in pairs.groupBy("kind").count().collect()}
    rows = examples(pairs).collect()
    products = [product for _, product in tiles([row["new"] or row["old"] for row in rows])]
    found: dict[str, list[tuple[Product, str | None]]] = {kind: [] for kind in counts}
    for row, product in zip(rows, products, strict=True):
        found[row["kind"]].append((product, differences(row["old"], row["new"])))
    return tuple(Change(kind, counts[kind], tuple(found[kind])) for kind in Change.KINDS if kind in counts)


def served(items: DataFrame, side: str) -> DataFrame:
    """item_id, the content that serves it, and what is told of it, as columns of this side."""
    return items.where("content_key is not null").select(
        "item_id", F.col("content_key").alias(f"{side}_content"), F.struct(*FIELDS).alias(side)
    )


def compared(old: DataFrame, new: DataFrame) -> DataFrame:
    """item_id, old, new and the kind of change."""
    return old.join(new, "item_id", "full").withColumn("kind", kind_of_change())


def kind_of_change() -> Column:
    # As text: the attributes follow the settings of their night, and may have other fields.
    facts = [F.to_json(F.struct(*(f"{side}.{name}" for name in FACTS))) for side in ("old", "new")]
    return (
        F.when(F.col("old").isNull(), "came")
        .when(F.col("new").isNull(), "went")
        .when(F.col("old_content") != F.col("new_content"), "content")
        .when(facts[0] != facts[1], "facts")
        .otherwise("same")
    )


def examples(pairs: DataFrame) -> DataFrame:
    """A few of each kind that is a change, by a fixed draw."""
    drawn = Window.partitionBy("kind").orderBy(F.xxhash64("item_id"), "item_id")
    numbered = pairs.where("kind != 'same'").withColumn("place", F.row_number().over(drawn))
    return numbered.where(F.col("place") <= SHOWN).orderBy("kind", "place")


def differences(old: Row | None, new: Row | None) -> str | None:
    """What is told of an item that differs, in words; None where it came or went."""
    if old is None or new is None:
        return None
    before, after = facts_of(old), facts_of(new)
    told = [
        f"{name} {shown(before.get(name))} → {shown(after.get(name))}"
        for name in after | before
        if before.get(name) != after.get(name)
    ]
    if old["title"] != new["title"]:
        told.insert(0, f"was: {old['title'] or 'no title'}")
    return "; ".join(told) or "another photo"


def facts_of(row: Row) -> dict[str, Any]:
    """supplier_id, category and the attributes by name."""
    attributes = row["attributes"].asDict() if row["attributes"] else {}
    return {"supplier_id": row["supplier_id"], "category": row["category"], **attributes}


def shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
