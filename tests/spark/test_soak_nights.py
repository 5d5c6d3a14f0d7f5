"""Sixty nights of a large shop, built by Spark, judged by the gate, published, and read as serving reads them."""

import dataclasses
import time
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace

import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from samestyle.errors import RefusedError
from samestyle.evaluation.recall import perturb, recalls
from samestyle.index.exact import exact_search
from samestyle.index.shard import OpenShard, open_shard
from samestyle.index.walk import Walk
from samestyle.release.gate import run_gate
from samestyle.release.manifest import Manifest
from samestyle.release.publish import current_release, publish
from samestyle.release.store import LocalStore
from samestyle.runs import RunFolder
from samestyle.serving.searcher import open_release
from samestyle.settings import load_settings
from samestyle.tables import schemas
from samestyle.tables.building import build_indexes
from samestyle.tables.modules import index_tasks
from samestyle.tables.night import Night
from tests.spark.test_nights import manifest
from udfs.shards import node_reader, shard_builder

DIM, ROWS, CONTENTS, NIGHTS, SUPPLIER = 64, 10_000, 100_000, 60, 50
M, EF_CONSTRUCTION, EF = 16, 100, 20
NEW, GONE, BACK, CHANGED = CONTENTS // 100, CONTENTS * 13 // 1000, CONTENTS * 3 // 1000, CONTENTS // 20
ITEMS = schemas.items("struct<in_stock: boolean, price: double>")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def drawn(contents: int) -> np.ndarray:
    """Unit vectors (contents, DIM) float32; a supplier's lie around one of 2,000 centres."""
    rng = np.random.default_rng(4)
    centres = rng.standard_normal((2000, DIM), dtype=np.float32)
    of_content = np.repeat(rng.integers(2000, size=-(-contents // SUPPLIER)), SUPPLIER)[:contents]
    vectors = centres[of_content] + 0.8 * rng.standard_normal((contents, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class LargeShop:
    """A catalogue in columns. Item n of `content[n]` is offered while `listed[n]`; every twentieth content twice."""

    def __init__(self, spark, folder):
        self.spark, self.folder, self.store = spark, folder, LocalStore(folder / "store")
        self.random, self.nights, self.embedded = np.random.default_rng(0), 0, 0
        self.vectors = drawn(CONTENTS + NIGHTS * NEW)
        self.content, self.listed = np.zeros(0, np.int64), np.zeros(0, bool)
        self.price, self.in_stock = np.zeros(0), np.zeros(0, bool)
        self.offer(CONTENTS)

    def offer(self, count: int) -> None:
        """The next contents come, each with its offers."""
        first = self.content.max(initial=-1) + 1
        new = np.arange(first, first + count)
        new = np.concatenate([new, new[::20]])
        self.content = np.concatenate([self.content, new])
        self.listed = np.concatenate([self.listed, np.ones(len(new), bool)])
        self.price = np.concatenate([self.price, self.random.random(len(new))])
        self.in_stock = np.concatenate([self.in_stock, np.ones(len(new), bool)])

    def churn(self) -> None:
        """New contents; runs of neighbours go; some of those that went come back; prices and stock change."""
        before = np.flatnonzero(~self.listed)
        self.withdraw(GONE)
        self.listed[self.random.permutation(before)[:BACK]] = True
        self.offer(NEW)
        places = self.random.permutation(np.flatnonzero(self.listed))[:CHANGED]
        self.price[places] = self.random.random(CHANGED)
        self.in_stock[places] ^= True

    def withdraw(self, count: int) -> None:
        """As suppliers end: with all their offers, also those that share a content with another item."""
        living = np.flatnonzero(self.listed)
        starts = self.random.permutation(len(living) // SUPPLIER)[: count // SUPPLIER] * SUPPLIER
        self.listed[living[(starts[:, None] + np.arange(SUPPLIER)).ravel()]] = False

    def names(self) -> set[str]:
        return {f"item{n:07d}" for n in np.flatnonzero(self.listed)}

    def items(self) -> pa.Table:
        rows = np.flatnonzero(self.listed)
        keys = [f"content{n:07d}" for n in self.content[rows]]
        attributes = pa.StructArray.from_arrays(
            [pa.array(self.in_stock[rows]), pa.array(self.price[rows])], ["in_stock", "price"]
        )
        names = pa.array([f"item{n:07d}" for n in rows])
        columns = {"item_id": names, "wanted_key": keys, "content_key": keys, "attributes": attributes}
        return pa.table(columns | repeated(len(rows), served_at=NOW, state="reused", supplier_id="s", category="lamps"))

    def attempts(self) -> pa.Table:
        """Embeddings of the contents that have none yet."""
        new = np.arange(self.embedded, self.content.max() + 1)
        self.embedded = int(self.content.max()) + 1
        keys, offsets = [f"content{n:07d}" for n in new], np.arange(0, len(new) * DIM + 1, DIM, dtype=np.int32)
        vectors = pa.ListArray.from_arrays(offsets, pa.array(self.vectors[new].ravel()))
        columns = {"content_key": keys, "title_hash": keys, "text_vector": vectors, "fused_vector": vectors}
        constant = {"encoder_id": "encoder1", "outcome": "embedded", "transient": False, "embedded_at": NOW}
        return pa.table(columns | repeated(len(new), **constant))

    def night(self) -> Night:
        self.nights += 1
        module = f"{{views: [fused], where: null, shard_rows: {ROWS}, m: {M}, ef_construction: {EF_CONSTRUCTION}}}"
        words = [f"paths.root={self.folder}", "tables.format=parquet", f"modules={{search: {module}}}"]
        settings = load_settings("demo", None, [*words, "catalogue.attributes=[in_stock,price]"])
        settings = settings.model_copy(update={"modules": {"search": settings.modules["search"]}})
        encoder = SimpleNamespace(encoder_id="encoder1", load=lambda: SimpleNamespace(dim=DIM))
        run, current = RunFolder(self.folder / "runs" / f"run{self.nights:03d}"), current_release(self.store)
        parent = current[1] if current else None
        named = parent.release_id if parent else None
        night = Night(self.spark, settings, run, self.store, SimpleNamespace(), encoder, parent, named)
        if self.embedded <= self.content.max():
            night.warehouse.embeddings.append(self.frame(self.attempts(), schemas.EMBEDDINGS))
        version = night.warehouse.items().overwrite(self.frame(self.items(), ITEMS), run.run_id)
        run.write("embed", {"items_version": version})
        return night

    def frame(self, table: pa.Table, schema: str):
        rows = self.spark.createDataFrame(table).coalesce(4)  # else a partition, and a file, for each 256 rows
        return self.spark.createDataFrame([], schema).unionByName(rows, allowMissingColumns=True)

    def build(self) -> Manifest:
        """Build, judge, publish. Raises RefusedError where the gate does, so that the parent stays."""
        night = self.night()
        tasks = list(index_tasks(night.settings, ["in_stock"], []))
        self.records = build_indexes(night, tasks, node_reader, shard_builder)
        read = int(self.listed.sum())
        ledger = dict.fromkeys(("fresh", "stale", "degraded", "rejected", "deleted"), 0)
        made = manifest(self.records, night, "encoder1", DIM)
        made = dataclasses.replace(made, parent=night.channel_named, ledger=ledger | {"read": read, "reused": read})
        made = dataclasses.replace(made, gate=run_gate(made, night.parent, night.settings.gate))
        known = night.parent.objects() if night.parent else {}
        publish(self.store, made, "current", night.channel_named, None, known)
        return made


def repeated(rows: int, **values) -> dict[str, pa.Array]:
    return {name: pa.repeat(pa.scalar(value), rows) for name, value in values.items()}


def opened_shards(shop: LargeShop, release: Manifest) -> list[OpenShard]:
    shards = release.index("search", "fused").shards
    files = [(shop.store.path(s.graph.key), shop.store.path(s.items_file.key), s.nodes) for s in shards]
    return [open_shard(graph, items, DIM, nodes) for graph, items, nodes in files]


def costs(walks: list[Walk], of_walk: list[np.ndarray], queries: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """recall@10 at EF over all shards, and the vectors compared with a query. of_walk: vectors by label."""
    scores, compared = np.empty((len(queries), 0), np.float32), 0
    for walk, vectors in zip(walks, of_walk, strict=True):
        found = [walk.search(query, 10, EF) for query in queries]
        compared += sum(count for _, count in found)
        own = np.array([vectors[labels] @ query for query, (labels, _) in zip(queries, found, strict=True)])
        scores = np.hstack([scores, own])
    best = -np.sort(-scores, axis=1)[:, :10]
    return float(recalls(best, exact).mean()), compared / len(queries)


def against_a_fresh_build(shards: list[OpenShard]) -> tuple[float, float]:
    """(recall@10 less a fresh build's, vectors compared with over a fresh build's), with the same rows a shard.

    The queries lie far enough from what is indexed that a graph search misses some: .99 of the answers are found.
    """
    alive = np.concatenate([shard.vectors() for shard in shards])
    queries = perturb(alive[np.random.default_rng(1).integers(len(alive), size=200)], 0.8, 1)
    exact = exact_search(alive, queries, 10)[1]
    graphs, vectors = [], []
    for shard in shards:
        dead = np.setdiff1d(np.arange(shard.nodes), shard.living)
        for label in dead:
            shard.graph.unmark_deleted(int(label))
        graphs.append(Walk.of(shard.graph, dead))
        vectors.append(shard.vectors(np.arange(shard.nodes)))
    fresh, parts = [], np.array_split(np.random.default_rng(2).permutation(alive), -(-len(alive) // ROWS))
    for part in parts:
        index = hnswlib.Index(space="ip", dim=DIM)
        index.init_index(len(part), M, EF_CONSTRUCTION, 42)
        index.add_items(part, num_threads=1)
        fresh.append(Walk.of(index))
    after, anew = costs(graphs, vectors, queries, exact), costs(fresh, parts, queries, exact)
    print(f"recall@10 {after[0]:.4f}, a fresh build's {anew[0]:.4f}; ", end="")
    return after[0] - anew[0], after[1] / anew[1]


def check_items(shop: LargeShop, release: Manifest) -> None:
    """The release's item files name exactly the day's items, each once, with the day's price and stock."""
    shards = release.index("search", "fused").shards
    rows = pa.concat_tables([pq.read_table(shop.store.path(s.items_file.key)) for s in shards])
    rows = rows.filter(rows["alive"])
    names = rows["item_id"].to_pylist()
    assert Counter(names) == Counter(shop.names())
    places = np.array([int(name[4:]) for name in names])
    attributes = rows["attributes"].combine_chunks()
    np.testing.assert_array_equal(attributes.field("price").to_numpy(), shop.price[places])
    np.testing.assert_array_equal(attributes.field("in_stock").to_numpy(zero_copy_only=False), shop.in_stock[places])


def refuse_a_night(shop: LargeShop) -> None:
    """Half of the shop is missing: the gate refuses, what serves stays, and the shop is whole again the next day."""
    serving, listed = current_release(shop.store), shop.listed.copy()
    shop.listed[::2] = False
    with pytest.raises(RefusedError, match="shrink"):
        shop.build()
    assert current_release(shop.store) == serving
    shop.listed = listed


@pytest.fixture
def compiling(spark):
    """Tests interpret their queries, as the demo does; on a hundred thousand rows compiling them is cheaper."""
    words = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}
    before = {name: spark.conf.get(name) for name in words}
    for name, value in words.items():
        spark.conf.set(name, value)
    yield spark
    for name, value in before.items():
        spark.conf.set(name, value)


@pytest.mark.soak
def test_sixty_nights_of_a_large_shop(compiling, tmp_path):
    """1 % new, 1.3 % gone, .3 % back, 5 % other prices and stock a night; against a full build, and a fresh one."""
    shop, inserted, written, ratios, seconds = LargeShop(compiling, tmp_path), [], [], [], []
    before = shop.build()
    full = sum(shard.graph.bytes for shard in before.indexes[0].shards)
    searcher = open_release(str(tmp_path / "store"), "search", cache_dir=tmp_path / "cache")
    for night in range(1, NIGHTS + 1):
        if night == NIGHTS // 2:
            refuse_a_night(shop)
            assert shop.build().objects() == before.objects(), "a night of nothing new changes nothing"
        shop.churn()
        started = time.monotonic()
        release = shop.build()
        seconds.append(time.monotonic() - started)
        known = before.objects()
        new = [s for s in release.indexes[0].shards if s.graph.key not in known]
        written.append(sum(shard.graph.bytes for shard in new) / full)
        inserted.append(shop.records[0]["plan"]["inserted"] / len(np.unique(shop.content[shop.listed])))
        check_items(shop, release)
        assert searcher.refresh().release_id == release.release_id
        gone = shop.vectors[shop.random.permutation(np.setdiff1d(shop.content, shop.content[shop.listed]))[:200]]
        found = {hit.item_id for hits in searcher.search(gone, k=10) for hit in hits}
        assert len(found) > 100
        assert found <= shop.names(), "nothing that is gone is found, asked for by its own vector"
        if night % (NIGHTS // 6) == 0:
            shards = opened_shards(shop, release)
            dead = 1 - sum(len(s.living) for s in shards) / sum(s.nodes for s in shards)
            ratios.append(against_a_fresh_build(shards))
            print(f"vectors compared x {ratios[-1][1]:.2f}; night {night}: {len(shards)} shards, ", end="")
            print(f"{dead:.1%} dead, {np.mean(seconds):.1f} s a night")
        before = release
    print(f"inserted a night {np.mean(inserted):.1%}, at most {max(inserted):.1%}; ", end="")
    print(f"bytes of shards {np.mean(written):.1%}, at most {max(written):.1%}, of a full build's")
    assert max(np.mean(inserted), np.mean(written)) <= 0.1
    assert max(*inserted, *written) <= 0.25
    assert min(recall for recall, _ in ratios) >= -0.005
    assert max(compared for _, compared in ratios) <= 1.35
