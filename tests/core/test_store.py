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
def store(tmp_path):
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


def test_list_gives_keys_by_prefix_and_hides_what_is_unfinished(store):
    for key in ("objects/b", "objects/a", "releases/r/manifest.json", "objects2"):
        store.put(key, b"")
    (store.root / "objects" / ".tmp-123").write_bytes(b"half")
    store.swap("channels/current", None, b"x")
    assert list(store.list("objects/")) == ["objects/a", "objects/b"]
    assert list(store.list("rel")) == ["releases/r/manifest.json"]
    assert list(store.list()) == [
        "channels/current", "objects/a", "objects/b", "objects2", "releases/r/manifest.json",
    ]  # fmt: skip
    assert list(LocalStore(store.root / "not there").list()) == []


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


def test_objects_are_named_by_their_content_and_written_once(store, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"hello")
    sha256 = hashlib.sha256(b"hello").hexdigest()
    ref = store.put_object(file, ".hnsw")
    assert ref == ObjectRef(f"objects/{sha256}.hnsw", sha256, 5)
    inode = store.path(ref.key).stat().st_ino
    os.utime(store.path(ref.key), (0, 0))
    assert store.put_object(file, ".hnsw") == ref
    assert store.path(ref.key).stat().st_ino == inode
    assert store.modified_at(ref.key) > 0  # used again: young again, for the garbage collection


def test_a_truncated_object_is_written_again(store, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"hello")
    ref = store.put_object(file, ".hnsw")
    store.path(ref.key).write_bytes(b"hel")
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
    store.swap("channels/c", b"two", None)
    assert not store.exists("channels/c")


def test_of_many_swaps_at_once_each_counts(store):
    """Eight threads, each with its own store object as in its own process, add 1 to a number 25 times."""

    def add(start):
        own = LocalStore(store.root)
        start.wait()
        for _ in range(25):
            while True:
                found = own.find("n")
                try:
                    own.swap("n", found, str(int(found or b"0") + 1).encode())
                    break
                except ConflictError:
                    continue

    start = threading.Barrier(8)
    threads = [threading.Thread(target=add, args=(start,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("n") == b"200"


def test_a_write_that_fails_leaves_nothing(store):
    store.put("a/b", b"old")

    def write_half():
        with store.writing("a/b") as target:
            target.write(b"ne")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match=r"no room left to write .*a/b"):
        write_half()
    assert store.get("a/b") == b"old"
    assert os.listdir(store.root / "a") == ["b"]


def test_trouble_with_the_disk_is_told_with_the_path(store):
    denied = explain(PermissionError(errno.EACCES, "Permission denied", "/srv/x"), "/srv")
    assert denied.startswith("no permission for /srv/x as user")
    store.root.mkdir()
    (store.root / "a").write_bytes(b"a file where a folder should be")
    with pytest.raises(StoreError, match="store/a"):
        store.put("a/b", b"")


def test_no_permission_is_a_clear_error(store):
    if os.getuid() == 0:
        pytest.skip("root may write anywhere")
    store.put("a/b", b"")
    (store.root / "a").chmod(0o500)
    with pytest.raises(StoreError, match="no permission"):
        store.put("a/b", b"new")


def test_sweep_removes_old_unfinished_files_only(store):
    store.put("a/b", b"")
    for name in (".tmp-old", ".tmp-new"):
        (store.root / "a" / name).write_bytes(b"half")
    os.utime(store.root / "a" / ".tmp-old", (100, 100))
    os.utime(store.root / "a" / "b", (100, 100))
    assert store.sweep(200) == 1
    assert sorted(os.listdir(store.root / "a")) == [".tmp-new", "b"]


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
    with pytest.raises(UsageError, match="s3:// are not supported yet"):
        open_store("s3://bucket/prefix")
    with pytest.raises(UsageError, match="three slashes"):
        open_store("file://srv/data")
