import threading
from datetime import datetime, timedelta

import pytest
from releases import edit_json, publish_small, small_catalogue

from samestyle.errors import IntegrityError, UsageError
from samestyle.release.denylist import KEY, allow, deny, purge, read_denylist
from samestyle.release.store import LocalStore, open_store
from samestyle.serving import open_release


def test_what_is_denied_is_kept_with_its_reason_and_comes_back_when_allowed(store):
    assert read_denylist(store).items == {}
    assert deny(store, ["b", "a", "b"], "a court said so") == ["a", "b"]
    assert deny(store, ["b", "c"]) == ["c"]
    items = read_denylist(store).items
    assert {name: one.reason for name, one in items.items()} == {
        "a": "a court said so",
        "b": "a court said so",
        "c": None,
    }
    assert items["a"].at.endswith("+00:00")
    assert allow(store, ["a", "nobody"]) == ["a"]
    assert allow(store, ["a"]) == []
    assert sorted(read_denylist(store).items) == ["b", "c"]


def test_a_purge_is_due_for_releases_that_were_begun_before_it(store):
    with pytest.raises(UsageError, match="nothing is denied"):
        purge(store)
    deny(store, ["a", "b"])
    assert not read_denylist(store).is_purge_due("2020-01-01T00:00:00+00:00")
    assert purge(store) == 2
    found = read_denylist(store)
    assert sorted(found.items) == ["a", "b"]
    asked = datetime.fromisoformat(found.purge)
    assert found.is_purge_due((asked - timedelta(days=1)).isoformat())
    assert found.is_purge_due(found.purge), "of the same second it cannot be told which came first"
    assert not found.is_purge_due((asked + timedelta(seconds=1)).isoformat())
    allow(store, ["a"])
    deny(store, ["c"])
    assert read_denylist(store).purge == found.purge


def test_of_many_that_deny_at_once_nothing_is_lost(store):
    def add(number):
        for item in range(3):
            deny(open_store(store.uri), [f"i{number}-{item}"])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_denylist(store).items) == 9


def test_ids_of_any_letters_are_taken_and_empty_ones_are_not(store):
    deny(store, ["a b/../\u00e9\n", "x.y=1"])
    assert sorted(read_denylist(store).items) == ["a b/../\u00e9\n", "x.y=1"]
    for wrong in ("", "x" * 5000):
        with pytest.raises(UsageError, match="is no item id"):
            deny(store, [wrong])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("items",), []),
        (("items", "a"), "yes"),
        (("items", "a", "at"), 7),
        (("format_version",), 2),
        (("purge",), "now"),
    ],
)
def test_a_damaged_list_is_not_taken_for_an_empty_one(tmp_path, path, value):
    store = LocalStore(tmp_path)
    deny(store, ["a"])
    store.put(KEY, edit_json(store.get(KEY), path, value))
    with pytest.raises(IntegrityError):
        read_denylist(store)
    with pytest.raises(IntegrityError):
        deny(store, ["b"])


def ids(searcher, query, **options):
    return [hit.item_id for hit in searcher.search(query, 132, **options)[0]]


@pytest.fixture
def shop(tmp_path):
    store = LocalStore(tmp_path / "store")
    publish_small(store, tmp_path / "built")
    return store, open_release(store.uri, "search", tmp_path / "cache")


def test_a_denied_item_is_gone_after_the_next_refresh_and_its_node_goes_with_its_last_member(shop, tmp_path):
    store, searcher = shop
    vectors = small_catalogue().vectors
    everything = ids(searcher, vectors[0])
    deny(store, ["i00000a", "i00003a"])
    assert ids(searcher, vectors[0]) == everything  # not yet
    assert searcher.refresh().error is None
    assert ids(searcher, vectors[0]) == [item for item in everything if item not in ("i00000a", "i00003a")]
    assert searcher.search(vectors[0], 1)[0][0].item_id == "i00000b"  # the photo's other offer
    assert searcher.search(vectors[3], 1)[0][0].item_id != "i00003a"
    with pytest.raises(UsageError, match="'i00003a' is not in"):
        searcher.neighbours_of("i00003a")
    assert "i00003a" not in ids(open_release(store.uri, "search", tmp_path / "cache"), vectors[3])
    allow(store, ["i00000a", "i00003a"])
    searcher.refresh()
    assert ids(searcher, vectors[0]) == everything


def test_filters_do_not_bring_a_denied_item_back(shop):
    import pyarrow.compute as pc

    store, searcher = shop
    where = pc.field("attributes", "price") < 5
    query = small_catalogue().vectors[3]
    assert "i00003a" in ids(searcher, query, where=where)  # and the filter is remembered
    deny(store, ["i00003a"])
    searcher.refresh()
    assert ids(searcher, query, where=where) != []
    assert "i00003a" not in ids(searcher, query, where=where)


def test_it_goes_on_hiding_while_the_list_cannot_be_read_and_says_so(shop):
    store, searcher = shop
    query = small_catalogue().vectors[3]
    deny(store, ["i00003a"])
    searcher.refresh()
    store.put(KEY, b"{")
    assert "denylist" in searcher.refresh().error
    assert "i00003a" not in ids(searcher, query)


def test_a_denial_outlives_the_release(shop, tmp_path):
    store, searcher = shop
    deny(store, ["i00003a"])
    publish_small(store, tmp_path / "built", "r2", "r1", catalogue=small_catalogue(seed=5))
    assert searcher.refresh().switched
    assert "i00003a" not in ids(searcher, small_catalogue(seed=5).vectors[3])
