"""Night after night: each release holds exactly the day's items, and only what differs is built."""

import dataclasses
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace

import hnswlib
import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from samestyle.evaluation.queries import HELD_OUT, Measurement
from samestyle.index.graph_file import GraphFile
from samestyle.index.shard import open_shard
from samestyle.release.denylist import deny, purge
from samestyle.release.manifest import (
    VIEWS,
    EncoderEntry,
    Index,
    Manifest,
    Recall,
    Source,
    Thresholds,
    data_digest,
    decode,
)
from samestyle.release.store import LocalStore
from samestyle.runs import RunFolder
from samestyle.settings import load_settings
from samestyle.tables import schemas
from samestyle.tables.building import build_indexes
from samestyle.tables.indexes import measure_recall
from samestyle.tables.job import cause_of
from samestyle.tables.members import with_views
from samestyle.tables.modules import index_tasks
from samestyle.tables.night import Night
from udfs.search import recall_measurer, vector_sampler
from udfs.shards import node_reader, shard_builder

DIM = 16
SETTINGS = (
    "tables.format=parquet",
    "modules={search: {views: [fused, image], shard_rows: 40, m: 8, ef_construction: 50}, homepage: null}",
    "evaluation.queries=50",
    "index.ef_search=[10,100]",
)
WITH_HOMEPAGE = "modules.homepage={where: in_stock, shard_rows: 40, m: 8, ef_construction: 50}"
ITEMS = schemas.items("struct<in_stock: boolean, price: double>")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclasses.dataclass(frozen=True)
class Item:
    """An offer: its content's number, and what its supplier says of it."""

    content: int
    price: float = 1.0
    in_stock: bool = True
    supplier: str | None = "supplier"
    category: str | None = "lamps"
    style: str | None = None


def vector(content: int, view: str, encoder_id: str = "encoder1") -> np.ndarray:
    """Near those of the 50 contents around it, as the offers of a category are; another encoder, another one."""
    seed = int(encoder_id.removeprefix("encoder"))
    centre = np.random.default_rng([content // 50, len(view), 0]).standard_normal(DIM)
    drawn = centre + 0.6 * np.random.default_rng([content, len(view), seed]).standard_normal(DIM)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


class Shop:
    """A catalogue whose nights are built without an encoder: a content's vectors are drawn by its number.

    Contents 2n and 2n + 1 show the same photo, so that they are one node of the image view.
    """

    settings = SETTINGS

    def __init__(self, spark, folder):
        self.spark, self.folder = spark, folder
        self.store = LocalStore(folder / "store")
        self.items: dict[str, Item] = {}
        self.embedded: set[int] = set()
        self.words: tuple[str, ...] = ()
        self.encoder_id = "encoder1"
        self.parent: Manifest | None = None
        self.nights = 0

    def night(self) -> Night:
        self.nights += 1
        words = [f"paths.root={self.folder}", "catalogue.attributes=[in_stock,price]", *self.settings, *self.words]
        settings = load_settings("demo", None, words)
        encoder = SimpleNamespace(encoder_id=self.encoder_id, load=lambda: SimpleNamespace(dim=DIM))
        run = RunFolder(self.folder / "runs" / f"run{self.nights:03d}")
        night = Night(self.spark, settings, run, self.store, SimpleNamespace(), encoder, self.parent, None)
        new = sorted({item.content for item in self.items.values()} - self.embedded)
        if new:
            rows = [embedding(content, self.encoder_id) for content in new]
            night.warehouse.embeddings.append(self.spark.createDataFrame(rows, schemas.EMBEDDINGS))
            self.embedded |= set(new)
        frame = self.spark.createDataFrame([item_row(*pair) for pair in self.items.items()], ITEMS)
        run.write("embed", {"items_version": night.warehouse.items().overwrite(frame, run.run_id)})
        return night

    def build(self, publish: bool = True) -> Manifest:
        """Tonight's release; where the gate refuses it, the next night has the same parent again."""
        night = self.night()
        tasks = list(index_tasks(night.settings, ["in_stock"], []))
        self.records = [r for r in build_indexes(night, tasks, node_reader, shard_builder) if r["shards"]]
        made = manifest(self.records, night, self.encoder_id)
        if publish:
            self.parent = made
        return made

    def expected(self, module: str) -> dict[str, Item]:
        return {i: item for i, item in self.items.items() if module == "search" or item.in_stock}


def embedding(content: int, encoder_id: str) -> tuple:
    vectors = [
        vector(content // 2 if view == "image" else content, view, encoder_id).tolist()
        for view in ("image", "text", "fused")
    ]
    head = (
        encoder_id,
        f"content{content}",
        f"title{content}",
        "uri",
        f"photo{content // 2}",
        "embedded",
        None,
        None,
        False,
    )
    return (*head, *vectors, "run", NOW, None)


def item_row(item_id: str, item: Item) -> tuple:
    content, attributes = f"content{item.content}", (item.in_stock, item.price)
    head = (item_id, content, content, NOW, "fresh", None, None, item.supplier, item.category, attributes)
    return (*head, "a title", None, item.style, NOW, "run")


def manifest(records: list, night: Night, encoder_id: str, dim: int = DIM) -> Manifest:
    recall, bands = dataclasses.asdict(Recall(10, 1.0, 1.0, 1.0, 1)), dataclasses.asdict(Thresholds(0.5, 0.2, 0.9))
    indexes = [decode(Index, r | {"ef_search": 10, "recall": recall, "thresholds": bands}, "index") for r in records]
    encoder = EncoderEntry(encoder_id, dim, {}, {})
    settings, version = night.settings.model_dump(mode="json"), night.run.required("embed")["items_version"]
    head = (
        night.run.run_id,
        "2026-03-01T00:00:00",
        None,
        night.run.run_id,
        "1",
        settings,
        "0",
        Source("shop"),
        version,
    )
    return Manifest(*head, encoder, {"read": 1}, tuple(indexes))


@pytest.fixture
def shop(spark, tmp_path):
    """150 items of 140 contents, in shards of 40 nodes: the first ten contents have two items each."""
    made = Shop(spark, tmp_path)
    made.items = {f"item{n:03d}": Item(n % 140, in_stock=n % 3 > 0) for n in range(150)}
    return made


@pytest.fixture
def two_modules(shop):
    """The same, with a module of what is in stock."""
    shop.settings = (*SETTINGS, WITH_HOMEPAGE)
    return shop


def check(shop: Shop, release: Manifest) -> None:
    """The release holds what the day's items say, item by item, and finds nothing else."""
    assert {(i.module, i.view) for i in release.indexes} >= {("search", "fused"), ("search", "image")}
    for index in release.indexes:
        expected = shop.expected(index.module)
        found, keys = Counter(), Counter()
        for shard in index.shards:
            graph, items = shop.store.path(shard.graph.key), shop.store.path(shard.items_file.key)
            opened, rows = open_shard(graph, items, DIM, shard.nodes), pq.read_table(items).to_pylist()
            alive = [row for row in rows if row["alive"]]
            found.update(row["item_id"] for row in alive)
            keys.update({row["node_key"] for row in rows})
            assert {row["label"] for row in rows} == set(range(shard.nodes))
            assert (len(alive), round(shard.dead_share * shard.nodes)) == (
                shard.items,
                shard.nodes - len(opened.living),
            )
            assert shard.living == len(opened.living)
            for row in alive:
                item = expected[row["item_id"]]
                content = item.content // 2 if index.view == "image" else item.content
                own = vector(content, index.view, release.encoder.encoder_id)
                np.testing.assert_array_equal(opened.vectors([row["label"]])[0], own)
                assert row["attributes"] == {"in_stock": item.in_stock, "price": item.price}
            labels, _ = opened.search(opened.vectors(), 10, 100)
            assert np.isin(labels, opened.living).all()
        assert found == Counter(expected.keys()), "each item once"
        assert set(keys.values()) == {1}, "each node in one shard"


def built_anew(before: Manifest, after: Manifest) -> dict[str, int]:
    """Nodes of graphs that the release before did not have, by index."""
    known = {shard.graph.key for index in before.indexes for shard in index.shards}
    return {f"{i.module}/{i.view}": sum(s.nodes for s in i.shards if s.graph.key not in known) for i in after.indexes}


def dead_nodes(release: Manifest) -> dict[str, int]:
    return {f"{i.module}/{i.view}": sum(s.nodes - s.living for s in i.shards) for i in release.indexes}


def test_a_first_night_an_empty_one_and_one_of_new_prices(two_modules):
    shop, first = two_modules, two_modules.build()
    check(shop, first)
    fused = first.index("search", "fused")
    assert (fused.nodes, fused.items, fused.shard_rows) == (140, 150, 40)
    assert [shard.frozen for shard in fused.shards] == [True, True, True, False]
    assert first.index("search", "image").nodes == 70
    empty = shop.build()
    assert empty.objects() == first.objects()
    shop.items["item020"] = Item(20, price=9.5, in_stock=False)
    priced = shop.build()
    check(shop, priced)
    assert set(built_anew(first, priced).values()) == {0}
    assert len(priced.objects().keys() - first.objects().keys()) == 3  # an item file of each index


def test_two_builds_under_other_task_orders_give_the_same_bytes(shop, spark, tmp_path):
    first = shop.build()
    other = Shop(spark, tmp_path / "other")
    other.items = dict(reversed(shop.items.items()))
    changed = {"spark.sql.shuffle.partitions": 7, "spark.sql.execution.arrow.maxRecordsPerBatch": 9}
    before = {name: spark.conf.get(name) for name in changed}
    try:
        for name, value in changed.items():
            spark.conf.set(name, value)
        second = other.build()
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)
    assert second.objects() == first.objects()
    assert [data_digest(i.shards) for i in second.indexes] == [data_digest(i.shards) for i in first.indexes]


@pytest.mark.parametrize(
    ("spoiled", "sentence"),
    [
        # tests/core/test_build.py has lengths.
        pytest.param(
            lambda rows: rows.__setitem__(3, float("nan")),
            "has length nan, not 1: embed it again",
            marks=pytest.mark.soak,
        ),
        (lambda rows: rows.append(0.0), f"has {DIM + 1} numbers, the index {DIM}: one encoder an index"),
    ],
    ids=["nan", "too long"],
)
def test_a_damaged_vector_in_the_table_is_named(shop, monkeypatch, spoiled, sentence):
    def damaged(content, encoder_id, sound=embedding):
        row = sound(content, encoder_id)
        if content == 140:
            spoiled(row[-4])
        return row

    shop.items["bad"] = Item(140)
    monkeypatch.setitem(globals(), "embedding", damaged)
    with pytest.raises(PySparkException) as error:
        shop.build()
    assert f"vector of item bad {sentence}" in str(cause_of(error.value))


def test_the_views_of_an_item_are_told_without_reading_vectors(shop, spark):
    shop.items = {"both": Item(0), "photo is broken": Item(2), "no title": Item(4), "no photo": Item(6)}
    night = shop.night()
    attempts = night.embeddings()
    told = attempts.withColumns(
        {
            "outcome": F.when(F.col("content_key") == "content2", "degraded").otherwise(F.col("outcome")),
            "title_hash": F.when(F.col("content_key") != "content4", F.col("title_hash")),
            "image_digest": F.when(F.col("content_key") != "content6", F.col("image_digest")),
        }
    )
    seen = with_views(night.items(), told)
    views = {r["item_id"]: [v for v in VIEWS if r[f"has_{v}_vector"]] for r in seen.collect()}
    assert views == {
        "both": ["image", "text", "fused"],
        "photo is broken": ["text", "fused"],
        "no title": ["image", "fused"],
        "no photo": ["text", "fused"],
    }
    plan = seen._jdf.queryExecution().executedPlan().toString()
    assert "ReadSchema" in plan
    assert "image_digest:string" in plan
    assert "vector:array" not in plan


def test_items_that_come_go_and_return(shop):
    first = shop.build()
    gone = {name: shop.items.pop(name) for name in ("item030", "item031", "item000")}
    shop.items |= {f"new{n}": Item(500 + n) for n in range(4)}
    second = shop.build()
    check(shop, second)
    assert built_anew(first, second)["search/fused"] < 40 + 4
    frozen = {s.shard: s.graph for s in first.index("search", "fused").shards if s.frozen}
    assert {s.shard: s.graph for s in second.index("search", "fused").shards if s.frozen} == frozen
    # item000 shares its content with item140: its node lives on; item030 was the only one of its content
    assert second.index("search", "fused").nodes - sum(s.living for s in second.index("search", "fused").shards) <= 2
    shop.items |= gone
    shop.items["item001"] = Item(77)  # another photo and title
    third = shop.build()
    check(shop, third)
    fused = [shard for shard in third.index("search", "fused").shards if shard.frozen]
    assert {s.graph for s in fused} >= set(frozen.values())


def test_a_purge_leaves_no_dead_node(shop):
    shop.build()
    for name in ("item030", "item031", "item095"):
        del shop.items[name]
    second = shop.build()
    assert dead_nodes(second)["search/fused"] == 3
    deny(shop.store, ["item030"])
    purge(shop.store)
    third = shop.build()
    check(shop, third)
    assert set(dead_nodes(third).values()) == {0}
    clean = [s.graph for s in second.index("search", "fused").shards if s.frozen and s.living == s.nodes]
    assert clean
    assert {s.graph for s in third.index("search", "fused").shards} >= set(clean)


def test_a_refused_night_changes_nothing_for_the_next_one(shop):
    first = shop.build()
    shop.items |= {f"new{n}": Item(500 + n) for n in range(4)}
    del shop.items["item050"]
    refused = shop.build(publish=False)
    check(shop, refused)
    del shop.items["new0"]
    shop.items["item050"] = Item(50)
    after = shop.build()
    check(shop, after)
    assert after.index("search", "fused").nodes == first.index("search", "fused").nodes + 3


def test_everything_deleted_and_everything_back(shop):
    shop.build()
    items, shop.items = shop.items, {"other": Item(999)}
    nearly_nothing = shop.build()
    check(shop, nearly_nothing)
    assert [shard.nodes for shard in nearly_nothing.index("search", "fused").shards] == [1]
    shop.items = {}
    shop.night()
    night = shop.night()
    tasks = list(index_tasks(night.settings, ["in_stock"], []))
    assert all(not record["shards"] for record in build_indexes(night, tasks, node_reader, shard_builder))
    shop.items = items
    check(shop, shop.build())


def test_a_filter_that_flips_a_third_of_the_stock(two_modules):
    shop, before = two_modules, two_modules.build()
    shop.items = {
        name: dataclasses.replace(item, in_stock=item.in_stock ^ (n % 3 == 0))
        for n, (name, item) in enumerate(shop.items.items())
    }
    after = shop.build()
    check(shop, after)
    anew = built_anew(before, after)
    assert (anew["search/fused"], anew["search/image"]) == (0, 0)
    assert anew["homepage/fused"] > 0


def test_what_makes_other_graphs_builds_all_of_them_and_says_so(shop, capsys):
    shop.build()
    changes = {
        ("modules.search.shard_rows=30", "modules.search.m=6"): "shard_rows was 40, is 30; m was 8, is 6",
        ("index.seed=1", "modules.search.shard_by=category"): "index.seed was 42, is 1; shard_by was None, is category",
    }
    for words, sentence in changes.items():
        capsys.readouterr()
        shop.words = (*shop.words, *words)
        check(shop, shop.build())
        assert f"every shard is built anew: {sentence}" in capsys.readouterr().out
        assert shop.records[0]["plan"]["inserted"] == 140
    shop.encoder_id, shop.embedded = "encoder2", set()
    check(shop, shop.build())
    assert "every shard is built anew: the encoder was encoder1, is encoder2" in capsys.readouterr().out


def test_recall_is_that_of_the_living(two_modules):
    """Half of every shard is dead: neither the graph nor the exact search that it is compared with finds those."""
    shop = two_modules
    shop.words = ("index.dead_max=1", "index.dissolve_max=0")
    shop.build()
    shop.items = {name: item for n, (name, item) in enumerate(shop.items.items()) if n % 2}
    release = shop.build()
    check(shop, release)
    night = shop.night()
    measured = measure_recall(night, shop.records, vector_sampler, recall_measurer)
    assert [index.curve()[100].value for index in measured] == [1.0, 1.0, 1.0]
    assert all(set(index.shards[100].values()) == {1.0} for index in measured)
    assert [index.data for index in measured] == [data_digest(index.shards) for index in release.indexes]
    check_held_out(shop, release, measured)


def check_held_out(shop: Shop, release: Manifest, measured: list[Measurement]) -> None:
    """Of 50 queries at most 16 are held out: contents, here of items that are out of stock, that no shard holds."""
    for index, found in zip(release.indexes, measured, strict=True):
        kinds = Counter(found.queries.kinds)
        asked = found.queries.vectors[[kind == HELD_OUT for kind in found.queries.kinds]]
        held = np.vstack([GraphFile(shop.store.path(shard.graph.key)).vectors for shard in index.shards])
        assert len(found.queries) == 50
        assert kinds[HELD_OUT] == (index.module == "homepage") * min(16, kinds[HELD_OUT])
        assert not (asked @ held.T > 1 - 1e-5).any()
    assert kinds[HELD_OUT] > 5


def test_any_hnswlib_reads_a_kept_shard_and_its_dead_are_the_item_files(shop):
    shop.build()
    del shop.items["item030"]
    for shard in shop.build().index("search", "fused").shards:
        index = hnswlib.Index(space="ip", dim=DIM)
        index.load_index(str(shop.store.path(shard.graph.key)))
        rows = pq.read_table(shop.store.path(shard.items_file.key)).to_pylist()
        dead = [row for row in rows if not row["alive"]]
        assert index.get_current_count() == shard.nodes
        assert all(row["item_id"] == "" and row["node_key"] for row in dead)
