"""Connected components of a graph that fits no driver: joins alone, in few rounds even where a component is a chain.

The alternating algorithm of Kiveris et al., "Connected Components in MapReduce and Beyond" (2014). Every node is linked
to the least node that it sees, by turns its larger neighbours (large star) and its smaller ones (small star), until
each component is a star around its least node. A chain of n nodes takes about log n rounds.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from samestyle.tables.io import only_row


@dataclass
class Scratch:
    """A folder of intermediate frames, removed when the block ends. Every executor must see it.

    Spark's own checkpoints end with the executor that holds them, or stay behind for ever.
    """

    spark: SparkSession
    folder: Path
    kept: int = field(default=0, init=False)

    def keep(self, frame: DataFrame) -> DataFrame:
        """The same rows, computed once and read from disk from now on."""
        path = str(self.folder / f"{self.kept:04d}")
        self.kept += 1
        frame.write.mode("overwrite").parquet(path)
        return self.spark.read.schema(frame.schema).parquet(path)

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        shutil.rmtree(self.folder, ignore_errors=True)


def connected_components(edges: DataFrame, scratch: Scratch) -> DataFrame:
    """Rows (node, component), one for every node of `edges` (a, b long): the component's least node is its name.

    Direction, repetition and loops do not matter.
    """
    links = scratch.keep(as_links(edges.select(F.col("a").alias("node"), F.col("b").alias("other"))))
    before, now = None, fingerprint(links)
    while now != before:
        links = scratch.keep(small_star(large_star(links)))
        before, now = now, fingerprint(links)
    roots = links.select("other", "other").distinct()
    loops = edges.where("a = b").select("a", "a")
    named = links.union(roots).union(loops).toDF("node", "component")
    return named.groupBy("node").agg(F.min("component").alias("component"))


def as_links(pairs: DataFrame) -> DataFrame:
    """Pairs (node, other) as links from the larger node to the smaller, once each, without loops."""
    larger, smaller = F.greatest("node", "other"), F.least("node", "other")
    return pairs.where("node != other").select(larger.alias("node"), smaller.alias("other")).distinct()


def large_star(links: DataFrame) -> DataFrame:
    """Links every larger neighbour of a node to the least of the node and its neighbours."""
    both = links.union(links.select("other", "node"))
    least = both.groupBy("node").agg(F.least(F.col("node"), F.min("other")).alias("least"))
    return as_links(
        both.where("other > node")
        .join(least, "node")
        .select(F.col("other").alias("node"), "least")
        .toDF("node", "other")
    )


def small_star(links: DataFrame) -> DataFrame:
    """Links a node and its smaller neighbours to the least of these."""
    least = links.groupBy("node").agg(F.min("other").alias("least"))
    moved = links.join(least, "node").select(F.col("other").alias("node"), F.col("least").alias("other"))
    return as_links(moved.union(least))


def fingerprint(links: DataFrame) -> tuple[int, int]:
    """Equal for equal sets of links; that it is equal for others as well is as likely as a collision of 64 bits."""
    row = only_row(links.agg(F.count("*").alias("rows"), F.bit_xor(F.xxhash64("node", "other")).alias("bits")))
    return row["rows"], row["bits"]
