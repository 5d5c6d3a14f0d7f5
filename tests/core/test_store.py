import errno
import hashlib
import os
import pickle
import threading

import pytest

from samestyle.errors import ConflictError, IntegrityError, UsageError
from samestyle.release.store import (
    LocalStore,
    MissingObjectError,
    ObjectRef,
    StoreError,
    explain,
    open_store,
)


@pytest.fixture
def local(tmp_path):
    return LocalStore(tmp_path / "store")


def test_what_was_put_comes_back(store, tmp_path):
    store.put("a/b.txt", b"one")
    store.put("a/b.txt", b"two")
    store.get_file("a/b.txt", tmp_path / "copy")
    assert store.get("a/b.txt") == b"two"
    assert (tmp_path / "copy").read_bytes() == b"two"
    assert store.size("a/b.txt") == 3
    assert store.digest("a/b.txt") == (hashlib.sha256(b"two").hexdigest(), 3)


def test_a_missing_key_is_said_to_be_missing(store):
    for read in (store.get, store.size, store.open, store.modified_at, store.touch):
        with pytest.raises(MissingObjectError, match="nowhere"):
            read("a/nowhere")
    assert store.find("a/nowhere") is None
    assert not store.exists("a/nowhere")
    store.delete("a/nowhere")


def begin_and_die(store, key):
    """What a writer leaves that was killed while it wrote."""
    if isinstance(store, LocalStore):
        store.path(key).parent.mkdir(parents=True, exist_ok=True)
        (store.path(key).parent / ".tmp-123").write_bytes(b"half")
    else:
        store.client.create_multipart_upload(**store.place(key))


def test_list_gives_keys_by_prefix_and_hides_what_is_unfinished(store):
    for key in ("objects/b", "objects/a", "releases/r/manifest.json", "objects2"):
        store.put(key, b"")
    begin_and_die(store, "objects/half")
    store.swap("channels/current", None, b"x")
    assert list(store.list("objects/")) == ["objects/a", "objects/b"]
    assert list(store.list("rel")) == ["releases/r/manifest.json"]
    assert list(store.list()) == [
        "channels/current", "objects/a", "objects/b", "objects2", "releases/r/manifest.json",
    ]  # fmt: skip
    assert list(open_store(f"{store.uri}/elsewhere").list()) == []


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../up", "a/../b", "a/./b", "a//b", "a/", "a\\b", "a\nb", "a\x00b", ".locks/x",
     "a/.tmp-1", "x" * 300, "/".join(["x" * 100] * 10)],
)  # fmt: skip
def test_keys_that_could_leave_the_store_are_refused(store, key):
    for use in (
        store.get,
        store.delete,
        store.size,
        lambda k: store.put(k, b""),
        lambda k: store.swap(k, None, b""),
    ):
        with pytest.raises(UsageError, match="is no key"):
            use(key)


def test_objects_are_named_by_their_content_and_written_once(store, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"hello")
    sha256 = hashlib.sha256(b"hello").hexdigest()
    ref = store.put_object(file, ".hnsw")
    assert ref == ObjectRef(f"objects/{sha256}.hnsw", sha256, 5)
    assert list(store.list()) == [ref.key]
    monkeypatch.setattr(store, "put_file", None)  # it is not sent again
    assert store.put_object(file, ".hnsw") == ref
    assert store.get(ref.key) == b"hello"


def test_what_is_used_again_is_young_again(local, tmp_path):
    """For the garbage collection."""
    (tmp_path / "file").write_bytes(b"hello")
    ref = local.put_object(tmp_path / "file", ".hnsw")
    os.utime(local.path(ref.key), (0, 0))
    local.put_object(tmp_path / "file", ".hnsw")
    assert local.modified_at(ref.key) > 0


def test_a_truncated_object_is_written_again(store, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"hello")
    ref = store.put_object(file, ".hnsw")
    store.put(ref.key, b"hel")
    store.put_object(file, ".hnsw")
    assert store.get(ref.key) == b"hello"


@pytest.mark.parametrize(
    "fields",
    [
        ("objects/x", "0" * 63, 1),
        ("objects/../../etc/passwd", "0" * 64, 1),
        (f"objects/{'0' * 64}/../x", "0" * 64, 1),
        (f"objects/{'1' * 64}.hnsw", "0" * 64, 1),
        (f"objects/{'0' * 64}.hnsw", "0" * 64, -1),
        (f"objects/{'0' * 64}.hnsw", "0" * 64, 2**60),
    ],
)
def test_object_references_are_checked(fields):
    with pytest.raises(IntegrityError):
        ObjectRef(*fields)


def test_swap_replaces_only_what_was_expected(store):
    store.swap("channels/c", None, b"one")
    with pytest.raises(ConflictError, match=r"channels/c .* found one, expected nothing"):
        store.swap("channels/c", None, b"two")
    with pytest.raises(ConflictError, match="found one, expected zero"):
        store.swap("channels/c", b"zero", b"two")
    store.swap("channels/c", b"one", b"two")
    assert store.get("channels/c") == b"two"


def test_of_many_swaps_at_once_each_counts(store):
    """Four threads, each with its own store object as in its own process, add 1 to a number 10 times."""

    def add(start):
        own = open_store(store.uri)
        start.wait()
        for _ in range(10):
            while True:
                found = own.find("n")
                try:
                    own.swap("n", found, str(int(found or b"0") + 1).encode())
                    break
                except ConflictError:
                    continue

    start = threading.Barrier(4)
    threads = [threading.Thread(target=add, args=(start,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("n") == b"40"


def test_a_write_that_fails_leaves_nothing(local):
    local.put("a/b", b"old")

    def write_half():
        with local.writing("a/b") as target:
            target.write(b"ne")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match=r"no room left to write .*a/b"):
        write_half()
    assert local.get("a/b") == b"old"
    assert os.listdir(local.root / "a") == ["b"]


def test_trouble_with_the_disk_is_told_with_the_path(local):
    denied = explain(PermissionError(errno.EACCES, "Permission denied", "/srv/x"), "/srv")
    assert denied.startswith("no permission for /srv/x as user")
    local.root.mkdir()
    (local.root / "a").write_bytes(b"a file where a folder should be")
    with pytest.raises(StoreError, match="store/a"):
        local.put("a/b", b"")


def test_no_permission_is_a_clear_error(local):
    if os.getuid() == 0:
        pytest.skip("root may write anywhere")
    local.put("a/b", b"")
    (local.root / "a").chmod(0o500)
    with pytest.raises(StoreError, match="no permission"):
        local.put("a/b", b"new")


def test_sweep_removes_what_was_begun_before_and_nothing_else(store):
    store.put("a/b", b"")
    begin_and_die(store, "a/half")
    assert store.sweep(100) == 0
    assert store.sweep(4e9) == 1
    assert store.sweep(4e9) == 0
    assert list(store.list()) == ["a/b"]


def test_executors_can_have_it(store):
    store.put("a", b"1")
    assert pickle.loads(pickle.dumps(store)).get("a") == b"1"


def test_open_store_takes_paths_and_file_uris(tmp_path):
    LocalStore(tmp_path / "a b").put("k", b"v")
    for uri in (
        tmp_path / "a b",
        str(tmp_path / "a b"),
        f"file://{tmp_path}/a%20b",
        f"file://localhost{tmp_path}/a%20b",
    ):
        assert open_store(uri).get("k") == b"v"
    assert open_store(open_store(tmp_path / "a b").uri).get("k") == b"v"
    with pytest.raises(UsageError, match=r"not hdfs://; docs/operations\.md"):
        open_store("hdfs://namenode/releases")
    with pytest.raises(UsageError, match="three slashes"):
        open_store("file://srv/data")
