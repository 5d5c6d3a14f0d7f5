import dataclasses
import os
import struct
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from releases import (
    DIM,
    Catalogue,
    flip_bit,
    judged,
    make_manifest,
    publish_small,
    small_catalogue,
    write_graph,
    write_items,
)

from samestyle.errors import IntegrityError, UsageError
from samestyle.release.manifest import Recall, RecallPoint
from samestyle.release.publish import publish, rollback
from samestyle.release.store import LocalStore
from samestyle.serving import Part, open_release, shards
from samestyle.serving.merge import search_plainly

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "built"


def opened(store, folder, **options):
    return open_release(store.uri, options.pop("module", "search"), folder.parent / "cache", **options)


def expected(catalogue, query, k, allowed=lambda row: True, cap=3):
    """Item ids by brute force over the rows: best cosine first, then item id, at most `cap` a node."""
    scores = catalogue.vectors @ query
    rows = sorted(
        (row for row in catalogue.rows if row["alive"] and allowed(row)),
        key=lambda row: (-scores[row["label"]], row["item_id"]),
    )
    seen, ids = {}, []
    for row in rows:
        seen[row["label"]] = seen.get(row["label"], 0) + 1
        if seen[row["label"]] <= cap:
            ids.append(row["item_id"])
    return ids[:k]


def ids(hits):
    return [hit.item_id for hit in hits]


def some_queries(count=5, seed=9):
    queries = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_search_over_all_shards_finds_what_exact_search_finds(store, folder, number):
    publish_small(store, folder, shards=number)
    queries = some_queries()
    answers = opened(store, folder).search(queries, 10)
    for query, hits in zip(queries, answers, strict=True):
        assert ids(hits) == expected(small_catalogue(), query, 10)


def test_a_hit_tells_its_cosine_and_its_row(store, folder):
    catalogue = small_catalogue()
    publish_small(store, folder)
    hit = opened(store, folder).search(catalogue.vectors[7], 1)[0][0]
    assert hit.score == pytest.approx(1.0)
    assert (hit.item_id, hit.node_key, hit.supplier_id) == ("i00007a", "node00007", "s0")
    assert (hit.category, hit.attributes) == ("home/mugs", {"price": 7.0, "in_stock": False})


def test_queries_need_not_have_unit_length(store, folder):
    publish_small(store, folder)
    searcher, query = opened(store, folder), some_queries(1)
    assert ids(searcher.search(5 * query, 10)[0]) == ids(searcher.search(query, 10)[0])


def test_equal_scores_come_by_item_id(store, folder):
    publish_small(store, folder)
    assert ids(opened(store, folder).search(small_catalogue().vectors[10], 2)[0]) == ["i00010a", "i00010b"]


def test_more_than_there_are_gives_all(store, folder):
    publish_small(store, folder)
    hits = opened(store, folder).search(some_queries(1), 1000)[0]
    assert len(hits) == 132
    assert ids(hits) == expected(small_catalogue(), some_queries(1)[0], 1000)


def with_dead(catalogue, *nodes):
    rows = [{**row, "alive": row["alive"] and row["label"] not in nodes} for row in catalogue.rows]
    return Catalogue(catalogue.vectors, rows)


def test_dead_items_are_not_found_and_a_node_lives_as_long_as_one_item(store, folder):
    catalogue = with_dead(small_catalogue(), *range(1, 60))
    rows = [{**row, "alive": row["alive"] and row["item_id"] != "i00000a"} for row in catalogue.rows]
    catalogue = Catalogue(catalogue.vectors, rows)
    publish_small(store, folder, catalogue=catalogue)
    searcher = opened(store, folder)
    for query in (*catalogue.vectors[:3], *some_queries()):
        assert ids(searcher.search(query, 200)[0]) == expected(catalogue, query, 200)
    assert ids(searcher.search(catalogue.vectors[0], 1)[0]) == ["i00000b"]
    with pytest.raises(UsageError, match="item 'i00001a' is not in search/fused of release r1"):
        searcher.neighbours_of("i00001a")


def test_a_release_whose_items_are_all_dead_answers_nothing(store, folder):
    manifest = make_manifest(store, folder, catalogue=with_dead(small_catalogue(), *range(120)))
    publish(store, judged(manifest), "current", None, force_reason="everything is sold")
    assert opened(store, folder).search(some_queries(2), 5) == [[], []]


@pytest.mark.parametrize("cost", [10_000, 0], ids=["through the graph", "exactly"])
@pytest.mark.parametrize("below", [1, 5, 40, 110])
def test_filters_give_what_exact_search_over_the_passing_items_gives(store, folder, monkeypatch, cost, below):
    monkeypatch.setattr(shards, "EXACT_COST", cost)
    publish_small(store, folder)
    searcher = opened(store, folder)
    where = pc.field("attributes", "price") < below
    for query in some_queries(8):
        hits = searcher.search(query, 10, where=where)[0]
        assert ids(hits) == expected(small_catalogue(), query, 10, lambda row: row["attributes"]["price"] < below)


def test_filters_on_our_columns_and_exclusions_combine(store, folder):
    publish_small(store, folder)
    query = some_queries(1)[0]
    best = expected(small_catalogue(), query, 3)
    hits = opened(store, folder).search(
        query,
        10,
        where=pc.field("category") == "home/mugs",
        exclude_items=best,
        exclude_suppliers=["s1", "s2"],
    )[0]
    assert ids(hits) == expected(
        small_catalogue(),
        query,
        10,
        lambda row: (
            row["category"] == "home/mugs" and row["item_id"] not in best and row["supplier_id"] not in ("s1", "s2")
        ),
    )


def test_excluded_items_are_replaced_by_the_next(store, folder):
    publish_small(store, folder)
    query = some_queries(1)[0]
    best = expected(small_catalogue(), query, 50)
    assert ids(opened(store, folder).search(query, 10, exclude_items=best[:40])[0]) == best[40:]


def test_a_filter_that_nothing_passes_gives_nothing(store, folder):
    publish_small(store, folder)
    assert opened(store, folder).search(some_queries(2), 5, where=pc.field("category") == "none") == [[], []]


def test_a_node_shows_no_more_items_than_the_cap(store, folder):
    catalogue = small_catalogue()
    copies = [{**catalogue.rows[0], "item_id": f"i00000{letter}"} for letter in "cdefg"]
    rows = sorted([*catalogue.rows, *copies], key=lambda row: (row["label"], row["item_id"]))
    publish_small(store, folder, catalogue=Catalogue(catalogue.vectors, rows))
    searcher, query = opened(store, folder), catalogue.vectors[0]
    assert ids(searcher.search(query, 4)[0])[:3] == ["i00000a", "i00000b", "i00000c"]
    assert not ids(searcher.search(query, 4)[0])[3].startswith("i00000")
    assert len([i for i in ids(searcher.search(query, 7, items_per_node=7)[0]) if i.startswith("i00000")]) == 7


def test_the_short_way_of_plain_searches_leads_to_the_same_hits(store, folder):
    """Nodes of one item, of several, of very many, with a dead one among them, and two with equal vectors."""
    catalogue = small_catalogue(300)
    catalogue.vectors[41] = catalogue.vectors[40]
    copies = [{**catalogue.rows[0], "item_id": f"i00000{number:03d}"} for number in range(70)]
    node = {**catalogue.rows[22], "label": 20}
    three = [{**node, "item_id": f"i00020{letter}", "alive": letter != "d"} for letter in "cde"]
    rows = sorted([*catalogue.rows, *copies, *three], key=lambda row: (row["label"], row["item_id"]))
    publish_small(store, folder, catalogue=Catalogue(catalogue.vectors, rows), shards=1)
    searcher, short = opened(store, folder), 0
    for query in (*catalogue.vectors[[0, 10, 20, 40, 41]], *some_queries(20)):
        for k, cap in ((2, 3), (7, 1), (40, 3), (290, 9)):
            plain = search_plainly(searcher._generation.views["fused"], query, k, cap)
            long = searcher.search(query, k, exclude_items=["nobody"], items_per_node=cap)[0]
            assert ids(searcher.search(query, k, items_per_node=cap)[0]) == ids(long)
            assert plain is None or ids(plain) == ids(long)
            np.testing.assert_allclose(
                [hit.score for hit in plain or ()], [hit.score for hit in long if plain], atol=1e-6
            )
            short += plain is not None
    assert 60 < short < 100, "most of them, and not those that meet nodes 0 and 20"


def test_a_node_in_two_shards_counts_once(store, folder):
    """With shard_by a node stands under each key of its members."""
    catalogue = small_catalogue(40)
    vectors = np.vstack([catalogue.vectors, catalogue.vectors[:1]])
    # node 40 is node 0 once more; 40 % 3 == 1, so that it lies in another shard
    rows = [*catalogue.rows, {**catalogue.rows[0], "label": 40, "item_id": "i00000c"}]
    publish_small(store, folder, catalogue=Catalogue(vectors, rows), shards=3)
    hits = opened(store, folder).search(catalogue.vectors[0], 2, items_per_node=1)[0]
    assert hits[0].node_key == "node00000"
    assert hits[1].node_key != "node00000"


def test_neighbours_come_in_bands_that_do_not_overlap(store, folder):
    """Unit vectors in a plane at chosen angles from item a, so that each cosine is known."""
    cosines = {"a": 1.0, "b": 0.95, "c": 0.95, "d": 0.6, "e": 0.6, "f": 0.3, "g": 0.1}
    vectors = np.zeros((len(cosines), DIM), np.float32)
    vectors[:, 0] = list(cosines.values())
    for node in range(len(cosines)):  # each leans another way, so that all differ
        vectors[node, 1 + node] = np.sqrt(max(0.0, 1 - vectors[node, 0] ** 2))
    suppliers = {"a": "s1", "b": "s1", "c": "s2", "d": "s2", "e": None, "f": "s1", "g": "s2"}
    rows = [
        {"label": node, "node_key": name, "item_id": name, "alive": True, "supplier_id": suppliers[name],
         "category": None, "attributes": {"price": 1.0, "in_stock": True}}
        for node, name in enumerate(cosines)
    ]  # fmt: skip
    publish_small(store, folder, catalogue=Catalogue(vectors, rows), shards=1)
    searcher = opened(store, folder)  # thresholds: same_style .5, similar .2, duplicate .9
    assert ids(searcher.neighbours_of("a", "duplicate")) == ["b"]
    assert ids(searcher.neighbours_of("a", "same_style")) == ["c", "d", "e"]
    assert ids(searcher.neighbours_of("a", "same_style", k=1)) == ["c"]
    assert ids(searcher.neighbours_of("a", "similar")) == ["f"]
    np.testing.assert_allclose(searcher.vector_of("b"), vectors[1])


def test_neighbours_further_down_the_list_are_reached(store, folder):
    """The band similar begins only after hundreds of nearer items."""
    rng = np.random.default_rng(4)
    near = rng.normal(size=(400, DIM)) * 0.05 + np.eye(DIM)[0]
    far = rng.normal(size=(30, DIM)) * 0.02 + 0.35 * np.eye(DIM)[0] + np.sqrt(1 - 0.35**2) * np.eye(DIM)[1]
    vectors = np.vstack([near, far]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    catalogue = Catalogue(vectors, small_catalogue(430).rows)
    publish_small(store, folder, catalogue=catalogue)
    scores = vectors @ vectors[0]
    similar = [row["item_id"] for row in catalogue.rows if 0.2 <= scores[row["label"]] < 0.5]
    hits = opened(store, folder).neighbours_of("i00000a", "similar", k=100)
    assert sorted(ids(hits)) == sorted(similar)
    assert len(similar) >= 30


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.search(np.ones((1, 3)), 5), r"shape \(1, 3\), expected \(q, 16\)"),
        (lambda s: s.search(np.zeros(DIM), 5), "zero or not finite"),
        (lambda s: s.search(np.full(DIM, np.nan), 5), "zero or not finite"),
        (lambda s: s.search(np.ones(DIM), 0), "k is 0"),
        (lambda s: s.search(np.ones(DIM), 10**9), "k is 1000000000"),
        (lambda s: s.search(np.ones(DIM), 5, view="text"), "no index search/text"),
        (lambda s: s.search(np.ones(DIM), 5, where=pc.field("nope") == 1), "the columns are label int64"),
        (lambda s: s.search(np.ones(DIM), 5, exclude_items="i1"), "is one string"),
        (lambda s: s.neighbours_of("nobody"), "item 'nobody' is not in search/fused"),
        (lambda s: s.neighbours_of("i00000a", "nearest"), "unknown band 'nearest'"),
    ],
)
def test_wrong_arguments_are_told(store, folder, call, message):
    publish_small(store, folder)
    with pytest.raises(UsageError, match=message):
        call(opened(store, folder))


def test_what_is_not_there_is_told(store, folder):
    with pytest.raises(UsageError, match="names no release"):
        opened(store, folder)
    publish_small(store, folder)
    with pytest.raises(UsageError, match="no module history: it has search, homepage"):
        opened(store, folder, module="history")
    with pytest.raises(UsageError, match=r"no shards \[7\]: it has \[0, 1\]"):
        opened(store, folder, shards=[0, 7])


def test_some_shards_by_choice(store, folder):
    publish_small(store, folder)
    hits = opened(store, folder, shards=[1]).search(some_queries(1), 200)[0]
    assert {int(hit.item_id[1:6]) % 2 for hit in hits} == {1}


def test_a_named_release_stays(store, folder):
    publish_small(store, folder, "r1")
    searcher = opened(store, folder, release_id="r1")
    publish_small(store, folder, "r2", "r1")
    assert not searcher.refresh().switched
    assert searcher.release_id == "r1"


# What is damaged


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("part", ["graph", "items_file"])
def test_a_damaged_object_is_not_opened(store, folder, damage, part):
    ref = getattr(publish_small(store, folder).indexes[0].shards[1], part)
    path = store.path(ref.key)
    if damage == "flip":
        flip_bit(path, ref.bytes // 2)
    elif damage == "truncate":
        os.truncate(path, ref.bytes - 1)
    else:
        path.unlink()
    said = {
        "flip": "is damaged and not opened",
        "truncate": f"has {ref.bytes - 1} bytes",
        "remove": "is not there",
    }
    with pytest.raises(Exception, match=said[damage]) as error:
        opened(store, folder)
    assert error.value.exit_code == 1
    assert ref.sha256 in str(error.value)
    assert list((folder.parent / "cache").rglob(".tmp*")) == []


def test_a_damaged_copy_in_the_cache_is_fetched_again(store, folder):
    ref = publish_small(store, folder).indexes[0].shards[0].graph
    first = ids(opened(store, folder).search(some_queries(1), 10)[0])
    copy = folder.parent / "cache" / ref.key
    flip_bit(copy, 500)
    assert ids(opened(store, folder).search(some_queries(1), 10)[0]) == first
    assert copy.read_bytes() == store.get(ref.key)


def test_what_is_in_the_cache_needs_no_objects_in_the_store(store, folder):
    manifest = publish_small(store, folder)
    opened(store, folder)
    for key in manifest.objects():
        store.delete(key)
    assert opened(store, folder).search(some_queries(1), 1)[0]


def lying(store, folder, graph=None, items=None, index=None, **shard):
    """A release whose checksums are right and whose content is wrong: what its first shard really holds."""
    manifest = make_manifest(store, folder, shards=1)
    folder.mkdir(exist_ok=True)
    first = dataclasses.replace(manifest.indexes[0].shards[0], **shard)
    if graph is not None:
        first = dataclasses.replace(first, graph=store.put_object(graph, ".hnsw"))
    if items is not None:
        first = dataclasses.replace(first, items_file=store.put_object(items, ".parquet"))
    indexes = (
        dataclasses.replace(manifest.indexes[0], shards=(first,), **(index or {})),
        *manifest.indexes[1:],
    )
    publish(store, judged(dataclasses.replace(manifest, indexes=indexes)), "current", None)
    return opened(store, folder)


def test_a_graph_that_is_not_as_the_manifest_says_is_refused(store, folder, tmp_path):
    vectors = small_catalogue().vectors
    wide = np.hstack([vectors, vectors]) / np.sqrt(2)
    cases = {
        "dim in the file is 32.0, the manifest says 16": write_graph(tmp_path / "dim", wide.astype(np.float32)),
        "nodes in the file is 130, the manifest says 120": write_graph(tmp_path / "n", small_catalogue(130).vectors),
        r"m in the file is \(4, 4, 8\), the manifest says \(8, 8, 16\)": write_graph(tmp_path / "m", vectors, m=4),
        "vector 0 has length 2.0.*, expected 1": write_graph(tmp_path / "long", 2 * vectors),
    }
    for number, (message, graph) in enumerate(cases.items()):
        with pytest.raises(IntegrityError, match=message):
            lying(LocalStore(tmp_path / f"store{number}"), folder, graph=graph)


HEADER = 96
NODE = 4 + 8 * 8 + 4 * DIM + 8


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (HEADER + 5 * NODE + 4, struct.pack("<I", 120), "a link leads outside"),
        (HEADER + 5 * NODE, struct.pack("<H", 17), "a link leads outside"),
        (HEADER + 5 * NODE + NODE - 8, struct.pack("<Q", 6), "labels are"),
        (52, struct.pack("<I", 120), "entry point 120"),
        (48, struct.pack("<i", 100), "on level 100"),
        (HEADER + 120 * NODE, struct.pack("<I", 3), "upper links of node 0 take 3 bytes"),
        (HEADER + 120 * NODE, struct.pack("<I", 36 * 10**6), "upper links of node 0 take 36000000 bytes"),
    ],
)
def test_a_crafted_graph_with_a_right_checksum_is_refused(store, folder, tmp_path, offset, value, message):
    path = write_graph(tmp_path / "graph", small_catalogue().vectors)
    data = bytearray(path.read_bytes())
    data[offset : offset + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=message):
        lying(store, folder, graph=path)


def test_a_link_of_an_upper_level_that_leads_outside_is_refused(store, folder, tmp_path):
    path = write_graph(tmp_path / "graph", small_catalogue().vectors)
    data = bytearray(path.read_bytes())
    position = HEADER + 120 * NODE
    while not (length := int.from_bytes(data[position : position + 4], "little")):
        position += 4
    assert length % 36 == 0
    data[position + 8 : position + 12] = struct.pack("<I", 10**6)
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="a link leads outside"):
        lying(store, folder, graph=path)


def edited(rows, **changes):
    return [{**rows[0], **changes}, *rows[1:]]


ROWS = small_catalogue().rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:-1], "131 items are alive, the manifest says 132"),
        (edited(ROWS, alive=False), "131 items are alive, the manifest says 132"),
        (edited(ROWS, label=120), "labels are 0 to 120, expected 0 to 119"),
        (edited(ROWS, label=-1), "labels are -1 to 119"),
        (edited(ROWS, item_id=None), "1 rows have no item_id"),
        (edited(ROWS, alive=None), "1 rows have no alive"),
        (edited(ROWS, item_id="i00000b"), "not sorted by"),
        (ROWS[::-1], "not sorted by"),
        ([{**row, "label": str(row["node_key"])} for row in ROWS], "column label is string, expected int64"),
        ([{k: v for k, v in row.items() if k != "alive"} for row in ROWS], "expected alive as well"),
    ],
)
def test_an_item_file_that_does_not_fit_its_shard_is_refused(store, folder, tmp_path, rows, message):
    with pytest.raises(IntegrityError, match=message):
        lying(store, folder, items=write_items(tmp_path / "items", rows))


def test_an_item_file_that_is_no_parquet_is_refused(store, folder, tmp_path):
    (tmp_path / "items").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(IntegrityError, match="not readable as Parquet"):
        lying(store, folder, items=tmp_path / "items")


# Refreshing


def test_refresh_switches_to_what_the_channel_names(store, folder):
    publish_small(store, folder, "r1")
    searcher = opened(store, folder)
    assert not searcher.refresh().switched
    publish_small(store, folder, "r2", "r1", catalogue=small_catalogue(60, seed=5))
    assert searcher.refresh().switched
    query = some_queries(1)[0]
    assert ids(searcher.search(query, 10)[0]) == expected(small_catalogue(60, seed=5), query, 10)
    rollback(store)
    searcher.refresh()
    assert searcher.release_id == "r1"


@pytest.mark.parametrize("damage", ["graph", "manifest", "pointer", "no channel"])
def test_a_broken_new_release_leaves_the_old_one_serving(store, folder, damage):
    publish_small(store, folder, "r1")
    searcher, query = opened(store, folder), some_queries(1)
    before = ids(searcher.search(query, 10)[0])
    new = publish_small(store, folder, "r2", "r1", catalogue=small_catalogue(60, seed=5))
    if damage == "graph":
        flip_bit(store.path(new.indexes[0].shards[0].graph.key), 1000)
    elif damage == "manifest":
        flip_bit(store.path("releases/r2/manifest.json"), 100)
    elif damage == "pointer":
        store.put("channels/current", b"{")
    else:
        store.delete("channels/current")
    told = searcher.refresh()
    assert (told.release_id, told.switched) == ("r1", False)
    assert told.error
    assert ids(searcher.search(query, 10)[0]) == before


def test_searches_go_on_while_it_switches(store, folder):
    """Every answer is that of one release or the other, never a mixture."""
    catalogues = [small_catalogue(60, seed=5), small_catalogue(60, seed=6)]
    publish_small(store, folder, "r1", catalogue=catalogues[0])
    publish_small(store, folder, "r2", "r1", catalogue=catalogues[1])
    query = some_queries(1)[0]
    allowed = [expected(catalogue, query, 10) for catalogue in catalogues]
    searcher, done, answers = opened(store, folder), threading.Event(), []

    def search():
        while not done.is_set():
            answers.append(ids(searcher.search(query, 10)[0]))

    thread = threading.Thread(target=search)
    thread.start()
    for target in ("r1", "r2", "r1", "r2"):
        rollback(store, to=target)
        assert searcher.refresh().switched
    done.set()
    thread.join()
    assert answers
    assert all(answer in allowed for answer in answers)


def test_recall_curves_and_other_values_of_ef_are_kept(store, folder):
    manifest = make_manifest(store, folder)
    index = dataclasses.replace(
        manifest.indexes[0],
        ef_search=77,
        recall=Recall(10, 1.0, 1.0, 1.0, 5),
        recall_curve=(RecallPoint(77, 1.0),),
    )
    publish(store, judged(dataclasses.replace(manifest, indexes=(index,))), "current", None)
    searcher = opened(store, folder)
    assert searcher.manifest.indexes[0].recall_curve == (RecallPoint(77, 1.0),)
    assert searcher._generation.views["fused"][0].graph.ef == 77


def test_serving_needs_neither_spark_nor_torch_nor_pydantic(store, folder):
    publish_small(store, folder)
    script = textwrap.dedent(
        f"""
        import sys

        class Ban:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {{"pyspark", "torch", "pydantic", "yaml", "pandas", "cv2"}}:
                    raise ImportError(name + " is banned here")

        sys.meta_path.insert(0, Ban())
        from samestyle.serving import open_release
        searcher = open_release({store.uri!r}, "search", {str(folder.parent / "cache")!r})
        print(len(searcher.neighbours_of("i00000a", "similar", 5)))
        """
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


# Caps, parts, and what does not fit


def test_no_supplier_fills_the_page(store, folder):
    """Seven suppliers share the items evenly: with a cap of two, 14 items are all that can be shown."""
    publish_small(store, folder)
    searcher = opened(store, folder)
    for query in some_queries():
        order = expected(small_catalogue(), query, 132)
        supplier = {row["item_id"]: row["supplier_id"] for row in small_catalogue().rows}
        seen, wanted = {}, []
        for item in order:
            seen[supplier[item]] = seen.get(supplier[item], 0) + 1
            wanted += [item] if seen[supplier[item]] <= 2 else []
        assert ids(searcher.search(query, 132, items_per_supplier=2)[0]) == wanted
        assert (
            ids(searcher.search(query, 5, items_per_supplier=1)[0])
            == [hit for hit in wanted if supplier[hit] not in {supplier[one] for one in wanted[: wanted.index(hit)]}][
                :5
            ]
        )


def test_suppliers_that_have_nearly_all_can_be_excluded(store, folder):
    """The nodes that are asked for at first are all of the excluded: more are asked for until k pass."""
    catalogue = small_catalogue(1000)
    rows = [{**row, "supplier_id": "rare" if row["label"] % 100 == 0 else "large"} for row in catalogue.rows]
    publish_small(store, folder, catalogue=Catalogue(catalogue.vectors, rows))
    for query in some_queries():
        hits = opened(store, folder).search(query, 8, exclude_suppliers=["large"])[0]
        wanted = expected(Catalogue(catalogue.vectors, rows), query, 8, lambda row: row["supplier_id"] == "rare")
        assert ids(hits) == wanted


def test_parts_share_out_all_shards_whatever_their_numbers(store, folder):
    publish_small(store, folder, shards=5)
    query = some_queries(1)[0]
    parts = [opened(store, folder, shards=Part(number, 2)) for number in (0, 1)]
    found = [set(ids(part.search(query, 132)[0])) for part in parts]
    assert not found[0] & found[1]
    assert found[0] | found[1] == set(expected(small_catalogue(), query, 132))
    publish_small(store, folder, "r2", "r1", shards=3)
    assert all(part.refresh().switched for part in parts)
    with pytest.raises(UsageError, match="part 2 of 2: expected 0 to 1"):
        Part(2, 2)


def test_a_release_of_another_encoder_is_refused_and_not_switched_to(store, folder):
    publish_small(store, folder)
    with pytest.raises(IntegrityError, match="made with encoder encoder1, this reader encodes with other"):
        opened(store, folder, encoder_id="other")
    searcher = opened(store, folder, encoder_id="encoder1")
    other = dataclasses.replace(make_manifest(store, folder, "r2", "r1"), parent="r1")
    other = dataclasses.replace(other, encoder=dataclasses.replace(other.encoder, encoder_id="encoder2"))
    publish(store, judged(other), "current", "r1")
    refreshed = searcher.refresh()
    assert (refreshed.release_id, refreshed.switched) == ("r1", False)
    assert "made with encoder encoder2" in refreshed.error
    assert searcher.search(some_queries(1), 3)[0]


def test_an_untouched_graph_is_not_loaded_again(store, folder):
    """Items die and come back beside the same graphs: the memory of a switch is that of the item files."""
    catalogue = small_catalogue()
    publish_small(store, folder, "r1", catalogue=with_dead(catalogue, 1, 2))
    searcher = opened(store, folder)
    before = [shard.graph for shard in searcher._generation.views["fused"]]
    publish_small(store, folder, "r2", "r1", catalogue=with_dead(catalogue, 2, 3))
    assert searcher.refresh().switched
    assert [shard.graph for shard in searcher._generation.views["fused"]] == before
    for node, alive in ((1, True), (2, False), (3, False), (4, True)):
        found = searcher.search(catalogue.vectors[node], 1)[0][0].item_id == f"i{node:05d}a"
        assert found == alive
    assert ids(searcher.search(catalogue.vectors[3], 132)[0]) == expected(
        with_dead(catalogue, 2, 3), catalogue.vectors[3], 132
    )


def test_searches_go_on_while_nodes_die_and_come_back_in_a_shared_graph(store, folder):
    """A thread searches all the time, exactly and through the graph, while another switches back and forth."""
    catalogue = small_catalogue(300)
    publish_small(store, folder, "r1", catalogue=with_dead(catalogue, *range(150)))
    searcher = opened(store, folder)
    publish_small(store, folder, "r2", "r1", catalogue=with_dead(catalogue, *range(150, 300)))
    one = searcher._generation
    assert searcher.refresh().switched
    two, wrong, done = searcher._generation, [], threading.Event()

    def ask():
        while not done.is_set():
            for k, where in ((5, None), (400, None), (5, pc.field("category") == "home/mugs")):
                try:
                    hits = searcher.search(catalogue.vectors[7], k, where=where)[0]
                    halves = {int(hit.item_id[1:6]) < 150 for hit in hits}
                    if len(halves) > 1:
                        wrong.append(hits)
                except Exception as error:
                    wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        searcher._switch(one)
        searcher._switch(two)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_store_on_s3_is_read_like_a_folder(s3, folder):
    publish_small(s3, folder)
    searcher = opened(s3, folder)
    query = some_queries(1)[0]
    assert ids(searcher.search(query, 10)[0]) == expected(small_catalogue(), query, 10)
    publish_small(s3, folder, "r2", "r1", catalogue=small_catalogue(seed=3))
    assert searcher.refresh().switched
    assert ids(searcher.search(query, 10)[0]) == expected(small_catalogue(seed=3), query, 10)
