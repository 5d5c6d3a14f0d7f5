"""Faults that really happen: processes killed, disks full, servers failing, bytes damaged. `make soak`: full counts."""

import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fault_proxy import FAULTS, faulty
from publisher import SEED, night
from releases import judged, make_manifest, publish_small, small_catalogue

from samestyle.errors import ConflictError, IntegrityError, RefusedError, SamestyleError
from samestyle.release import s3 as s3_room
from samestyle.release.denylist import allow, deny
from samestyle.release.manifest import manifest_key
from samestyle.release.publish import list_releases, publish, read_pointer, rollback, verify_release
from samestyle.release.retention import collect_garbage
from samestyle.release.s3 import S3Store
from samestyle.release.store import LocalStore
from samestyle.serving import Searcher, open_release
from samestyle.serving.cache import Cache

HERE = Path(__file__).resolve().parent
QUERY = small_catalogue(seed=99).vectors[0]


def answers(seed: int) -> list[str]:
    """What every reader must say of the release whose catalogue has this seed."""
    catalogue = small_catalogue(seed=seed)
    scores = catalogue.vectors @ QUERY
    order = sorted(catalogue.rows, key=lambda row: (-scores[row["label"]], row["item_id"]))
    return [row["item_id"] for row in order[:10]]


OLD, NEW = answers(0), answers(SEED)


def said(searcher: Searcher) -> list[str]:
    return [hit.item_id for hit in searcher.search(QUERY, 10)[0]]


class Poll:
    """A reader in a thread of its own that refreshes and searches all the time, and keeps what it was told."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher, self.seen, self.errors, self._done = searcher, [], [], threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._done.is_set():
            error = self.searcher.refresh().error
            self.errors += [error] if error else []
            self.seen.append(said(self.searcher))
            time.sleep(0.001)

    def __enter__(self) -> "Poll":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()


def python(*words: str, wrap: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE.parent}"}
    command = [*wrap, sys.executable, *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


# Killed


def spread(count: int, total: int) -> list[int]:
    """`count` moments of 1 to `total`, evenly, the first and the last among them."""
    return sorted({1 + round(n * (total - 1) / (count - 1)) for n in range(count)})


def kill_everywhere(tmp_path: Path, count: int) -> int:
    """Kill a publish in a folder at so many moments; returns at how many the old release still served."""
    first = tmp_path / "first"
    publish_small(LocalStore(first / "store"), first / "built", "r1")
    shutil.copytree(first, tmp_path / "whole")
    moments = int(ended(python(f"{HERE}/publisher.py", f"{tmp_path}/whole/store", f"{tmp_path}/whole/b")).split()[-1])
    old = 0
    for at in spread(count, moments):
        home = tmp_path / f"at{at}"
        shutil.copytree(first, home)
        store = LocalStore(home / "store")
        with Poll(open_release(store.uri, "search", home / "cache")) as poll:
            killed = python(f"{HERE}/publisher.py", store.uri, f"{home}/b", str(at))
            killed.communicate()
        assert killed.returncode == -signal.SIGKILL
        assert all(seen in (OLD, NEW) for seen in poll.seen), f"killed at moment {at} of {moments}"
        assert poll.errors == []
        serving = read_pointer(store, "current").release_id
        old += serving == "r1"
        assert verify_release(store, serving, deep=True).objects == 5
        goes_on(store, home)
        shutil.rmtree(home)
    return old


def goes_on(store: LocalStore, home: Path) -> None:
    """The next run publishes, and removes what the killed one has left."""
    night(store, home / "b")
    assert said(open_release(store.uri, "search", home / "cache")) == NEW
    assert verify_release(store, "r2").objects == 5
    kept = {key for release in list_releases(store) for key in json_objects(store, release)}
    assert set(store.list("objects/")) == kept
    assert [path for path in store.root.rglob("*") if ".tmp-" in path.name] == []


def json_objects(store: LocalStore, release_id: str) -> set[str]:
    """Keys of a release's objects, by nothing but the text of its manifest."""
    return set(re.findall(r"objects/[0-9a-f]{64}[a-z.]*", store.get(manifest_key(release_id)).decode()))


def test_a_publish_that_is_killed_leaves_the_old_release_or_the_new_one(tmp_path):
    assert 0 < kill_everywhere(tmp_path, 4) < 4


@pytest.mark.soak
def test_a_publish_that_is_killed_at_50_moments(tmp_path):
    old = kill_everywhere(tmp_path, 50)
    print(f"killed at 50 moments: {old} times the old release served, {50 - old} times the new one, never another")


def kill_at_requests(store: S3Store, proxy, tmp_path: Path, count: int) -> int:
    """Kill a publish on S3 at so many of its requests, half of them after the server has done what it was asked."""
    old, requests = 0, 0
    for number in range(count + 1):
        place = S3Store(store.bucket, f"{store.prefix}/{number}", proxy.endpoint)
        home = tmp_path / str(number)
        publish_small(place, home / "built", "r1")
        honest = S3Store(store.bucket, place.prefix)
        with Poll(Searcher(honest, "search", cache_of(honest, home), "current", None, None, None)) as poll:
            at = spread(count, requests)[number - 1] if number else 0
            killed = run_until(proxy, place, home, at, lost=bool(number % 2))
            requests = requests or killed
        assert all(seen in (OLD, NEW) for seen in poll.seen), f"killed at request {at} of {requests}"
        assert poll.errors == []
        old += bool(number) and read_pointer(honest, "current").release_id == "r1"
        night(honest, home / "b")
        assert said(open_release(honest.uri, "search", home / "cache")) == NEW
        kept = {key for release in list_releases(honest) for key in json_objects(honest, release)}
        assert set(honest.list("objects/")) == kept
    return old


def cache_of(store: S3Store, home: Path) -> Cache:
    return Cache(store, home / "cache")


def run_until(proxy, store: S3Store, home: Path, at: int, lost: bool) -> int:
    """Publish through the proxy; at request `at` kill the process. Returns how many requests it made."""
    proxy.seen.clear()
    environment = os.environ | {"AWS_ENDPOINT_URL": proxy.endpoint}
    environment["PYTHONPATH"] = f"{HERE.parents[1]}{os.pathsep}{HERE.parent}"
    process = subprocess.Popen([sys.executable, f"{HERE}/publisher.py", store.uri, f"{home}/b"], env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip

    def plan(method: str, path: str) -> str | None:
        if at and len(proxy.seen) + 1 == at:
            process.kill()
            return "lost" if lost else "reset"
        return None

    proxy.plan = plan
    err = process.communicate()[1]
    proxy.plan = lambda method, path: None
    assert process.returncode == (-signal.SIGKILL if at else 0), err.decode()
    return len(proxy.seen)


@pytest.fixture
def proxy(object_store):
    with faulty(object_store.endpoint) as proxy:
        yield proxy


def test_a_publish_on_s3_that_is_killed_leaves_the_old_release_or_the_new_one(s3, proxy, tmp_path):
    assert 0 < kill_at_requests(s3, proxy, tmp_path, 2) <= 2


@pytest.mark.soak
def test_a_publish_on_s3_that_is_killed_at_50_requests(s3, proxy, tmp_path):
    old = kill_at_requests(s3, proxy, tmp_path, 50)
    print(f"killed at 50 requests: {old} times the old release served, {50 - old} times the new one, never another")


# A server that fails


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(s3_room, "pause", lambda attempt: None)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.0)


def some_fault(chance: random.Random, method: str, path: str) -> str:
    """Bits flip in content alone, as protocols guard themselves."""
    content = method == "GET" and "/objects/" in path
    return chance.choice(FAULTS if content else [fault for fault in FAULTS if fault != "flip"])


def hold_out(store: S3Store, proxy, tmp_path: Path, seed: int, share: float) -> str:
    """A night and a reader over a server that fails this share of requests, in all ways; returns how it ended."""
    place = S3Store(store.bucket, f"{store.prefix}/{seed}", proxy.endpoint)
    honest = S3Store(store.bucket, place.prefix)
    home, chance = tmp_path / str(seed), random.Random(seed)
    publish_small(honest, home / "built", "r1")
    reader = Searcher(place, "search", cache_of(place, home), "current", None, None, None)
    proxy.seen.clear()
    proxy.plan = lambda method, path: some_fault(chance, method, path) if chance.random() < share else None
    try:
        manifest = judged(make_manifest(place, home, "r2", "r1", small_catalogue(seed=SEED)))
        publish(place, manifest, "current", "r1")
        ending = "published"
    except SamestyleError as error:
        ending = type(error).__name__
    refreshed = reader.refresh()
    assert refreshed.error is None or said(reader) == OLD
    assert said(reader) in (OLD, NEW)
    requests = len(proxy.seen)
    proxy.plan = lambda method, path: None
    assert requests < 600, "retries are bounded"
    named = read_pointer(honest, "current").release_id
    assert named == "r2" if ending == "published" else named in ("r1", "r2")
    verify_release(honest, named)
    if named == "r1":  # the next night
        publish(honest, judged(make_manifest(honest, home, "r2", "r1", small_catalogue(seed=SEED))), "current", "r1")
    assert reader.refresh().error is None
    assert said(reader) == NEW
    return ending


def test_over_a_failing_server_the_release_is_right_or_the_old_one(s3, proxy, tmp_path, quick):
    for seed in (1, 2, 3):
        hold_out(s3, proxy, tmp_path, seed, share=0.15)
    assert len({fault for fault, _, _ in proxy.done}) >= 6


@pytest.mark.soak
def test_over_a_failing_server_50_times(s3, proxy, tmp_path, quick):
    endings = [hold_out(s3, proxy, tmp_path, seed, share=0.05 + 0.006 * seed) for seed in range(50)]
    counts = {ending: endings.count(ending) for ending in sorted(set(endings))}
    dealt = {fault: sum(1 for found, _, _ in proxy.done if found == fault) for fault in FAULTS}
    print(f"50 nights over a failing server: {counts}; faults dealt: {dealt}")


@pytest.mark.soak
def test_pauses_of_ten_seconds_are_waited_for(s3, proxy, tmp_path):
    """One while storing, one before the manifest, one before the channel, one while reading: no request comes twice."""
    proxy.pause_s = 10
    for number, (method, part) in enumerate(
        [("PUT", "objects/"), ("PUT", "manifest.json"), ("PUT", "channels/current"), ("GET", ".hnsw")], 1
    ):
        place, home = S3Store(s3.bucket, f"{s3.prefix}/{number}", proxy.endpoint), tmp_path / str(number)
        proxy.fail("pause", 1, method, part)
        publish_small(place, home, "r1")
        assert said(Searcher(place, "search", cache_of(place, home), "current", None, None, None)) == OLD
        assert len(proxy.done) == number
        fault, *paused = proxy.done[-1]
        assert fault == "pause"
        assert proxy.seen.count(tuple(paused)) == (1 if method == "PUT" else 2)  # read by publish, and by the reader
    print(f"{len(proxy.done)} pauses of 10 s: each waited for, no request sent twice")


# Damaged


def damage(data: bytes, chance: random.Random) -> bytes:
    """One bit flipped, or one byte cut."""
    place = chance.randrange(len(data))
    if chance.random() < 0.5:
        return data[:place] + data[place + 1 :]
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def damage_everywhere(tmp_path: Path, trials: int) -> dict[str, int]:
    """Damage one object of the newer release at a time; all must be refused while the old one keeps serving."""
    store = LocalStore(tmp_path / "store")
    publish_small(store, tmp_path / "built", "r1")
    searcher = open_release(store.uri, "search", tmp_path / "cache")
    catalogue = small_catalogue(seed=SEED)
    catalogue.rows[:] = [{**row, "category": "other"} for row in catalogue.rows]  # else its item files are the old ones
    manifest = publish_small(store, tmp_path / "built", "r2", "r1", catalogue=catalogue)
    encoder = {ref.key for ref in manifest.encoder.files.values()}
    keys = [*sorted(manifest.objects()), manifest_key("r2")]
    chance, refused = random.Random(7), dict.fromkeys(("graph", "items", "encoder", "manifest"), 0)
    for trial in range(trials):
        key = keys[trial % len(keys)]
        whole = store.get(key)
        store.put(key, damage(whole, chance))
        with pytest.raises(IntegrityError):
            verify_release(store, "r2")
        with pytest.raises(IntegrityError):
            open_wholly(store, tmp_path / "nothing-cached")
        shutil.rmtree(tmp_path / "nothing-cached", ignore_errors=True)
        if key in encoder:
            refused["encoder"] += 1
        else:
            keeps_serving(searcher)
            kinds = {".hnsw": "graph", ".parquet": "items", ".json": "manifest"}
            refused[kinds[Path(key).suffix]] += 1
        store.put(key, whole)
    assert searcher.refresh().switched
    assert said(searcher) == NEW
    return refused


def open_wholly(store: LocalStore, cache: Path) -> None:
    """With its encoder, which a reader opens for photos and words alone."""
    searcher = open_release(store.uri, "search", cache)
    searcher.cache.encoder_folder(searcher.manifest.encoder)


def keeps_serving(searcher: Searcher) -> None:
    """The old release goes on, and the answer says that something is wrong with the new one."""
    shutil.rmtree(searcher.cache.folder, ignore_errors=True)  # nothing sound of it is at hand from the trial before
    refreshed = searcher.refresh()
    assert (refreshed.release_id, refreshed.switched) == ("r1", False)
    assert refreshed.error
    assert said(searcher) == OLD


def test_a_release_with_one_damaged_object_is_refused_and_the_old_one_serves(tmp_path):
    assert min(damage_everywhere(tmp_path, 24).values()) >= 4


@pytest.mark.soak
def test_damage_in_1000_trials(tmp_path):
    print(f"damaged in 1,000 trials, refused by reader and verify each time: {damage_everywhere(tmp_path, 1000)}")


# A full disk

FULL = '''
import sys
import tempfile
from pathlib import Path
import pyarrow as pa
from releases import DIM, M, judged, make_manifest, publish_small, small_catalogue
from samestyle.errors import SamestyleError
from samestyle.index.nodes import GraphParameters
from samestyle.release.export import export_release
from samestyle.release.store import LocalStore
from samestyle.serving import open_release
from udfs.shards import shard_builder

act, small, roomy = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
store = LocalStore(roomy / "store")


def shard_task():
    """What an executor does with one shard's rows, where its folder for temporary files is full."""
    tempfile.tempdir = str(small)
    catalogue = small_catalogue(3000)
    items = [{**row, "shard": 0, "vector": None} for row in catalogue.rows]
    nodes = [
        {"label": n, "node_key": f"node{n:05d}", "item_id": "", "shard": 0, "vector": list(v)}
        for n, v in enumerate(catalogue.vectors)
    ]
    table = pa.Table.from_pylist(items + nodes).sort_by([("label", "ascending"), ("item_id", "ascending")])
    builder = shard_builder({0: (GraphParameters(DIM, M, 50, 1), 3000)}, {}, store)
    list(builder(iter(table.combine_chunks().to_batches())))


try:
    if act == "shard":
        shard_task()
    if act == "build":
        publish_small(LocalStore(small / "store"), roomy / "built", "r1", catalogue=small_catalogue(3000))
    if act == "download":
        open_release(store.uri, "search", small / "cache")
    if act == "export":
        export_release(store, "r1", small / "out")
except SamestyleError as error:
    print("told:", error)
print("left:", sorted(str(path.relative_to(small)) for path in small.rglob("*") if path.is_file()))
'''


@pytest.mark.parametrize("act", ["shard", "build", "download", "export"])
def test_a_full_disk_is_told_and_leaves_nothing_half(tmp_path, act):
    """On a file system of 256 KiB, mounted for the one process; a release takes more."""
    small = tmp_path / "small"
    small.mkdir()
    mount = f'mount -t tmpfs -o size=256k none {small} && exec "$@"'
    wrap = ("unshare", "-rm", "sh", "-c", mount, "sh")
    if subprocess.run([*wrap, "true"], capture_output=True).returncode:
        pytest.skip("this host lets nobody mount a small file system")
    if act in ("download", "export"):
        publish_small(LocalStore(tmp_path / "store"), tmp_path / "built", "r1", catalogue=small_catalogue(3000))
    out = ended(python("-c", FULL, act, str(small), str(tmp_path), wrap=wrap))
    told = (
        r"/shard.hnsw has \d+ bytes, \d+ were to be written: is the disk full" if act == "shard" else "no room left to"
    )
    assert re.search(f"told: .*{told}", out)
    assert not (tmp_path / "store" / "objects").exists() or act != "shard"
    left = out.partition("left: ")[2]
    assert ".tmp-" not in left
    assert "manifest.json" not in left
    assert "out" not in left


# Many nights


def simulate(store, tmp_path: Path, nights: int, seed: int) -> dict[str, int]:
    """Nights with churn, refusals, rollbacks, takedowns and lost races; after each, an independent count."""
    chance = random.Random(seed)
    shop = {row["item_id"]: row for row in small_catalogue(60, seed=seed).rows}
    denied: set[str] = set()
    counts = dict.fromkeys(("published", "refused", "rolled back", "conflict"), 0)
    released: dict[str, set[str]] = {}
    for number in range(1, nights + 1):
        catalogue = small_catalogue(60 + number, seed=seed)
        gone = {row["item_id"] for row in catalogue.rows if chance.random() < 0.1}
        catalogue.rows[:] = [{**row, "alive": row["item_id"] not in gone | denied} for row in catalogue.rows]
        pointer = read_pointer(store, "current")
        parent, name = (pointer.release_id if pointer else None), f"r{number}"
        manifest = make_manifest(store, tmp_path, name, parent, catalogue)
        event = chance.choice(["publish", "publish", "publish", "refuse", "race", "roll back", "deny"])
        living = {row["item_id"] for row in catalogue.rows if row["alive"]}
        try:
            if event == "refuse":
                manifest = judged(broken_ledger(manifest))
                publish(store, manifest, "current", parent)
            else:
                publish(store, judged(manifest), "current", "r0" if event == "race" else parent)
            counts["published"] += 1
            released[name] = living
        except RefusedError:
            counts["refused"] += 1
        except ConflictError:
            counts["conflict"] += 1
        if event == "roll back" and read_pointer(store, "current").previous in released:
            rollback(store)
            counts["rolled back"] += 1
        if event == "deny":
            denied |= set(deny(store, chance.sample(sorted(shop), 2)))
        elif denied and chance.random() < 0.2:
            denied -= set(allow(store, [chance.choice(sorted(denied))]))
        collect_garbage(store, 3, dry_run=False, grace_s=-60)
        if read_pointer(store, "current"):
            check_night(store, tmp_path / "cache", released, denied)
    return counts


def broken_ledger(manifest):
    return dataclasses.replace(manifest, ledger={**manifest.ledger, "fresh": 1})


def check_night(store, cache: Path, released: dict[str, set[str]], denied: set[str]) -> None:
    """What a reader without anything in memory can find is exactly what that release was to hold, less the denied."""
    named = read_pointer(store, "current").release_id
    verify_release(store, named)
    searcher = open_release(store.uri, "search", cache)
    found = {hit.item_id for hit in searcher.search(QUERY, 1000, items_per_node=100)[0]}
    assert found == released[named] - denied
    kept = {key for release in list_releases(store) for key in json_objects(store, release)}
    assert set(store.list("objects/")) == kept


def test_after_each_of_eight_nights_a_reader_finds_what_it_should(tmp_path):
    counts = simulate(LocalStore(tmp_path / "store"), tmp_path, 8, seed=3)
    assert sum(counts.values()) >= 8


@pytest.mark.soak
def test_after_each_of_24_nights_a_reader_finds_what_it_should(store, tmp_path):
    counts = simulate(store, tmp_path, 24, seed=1)
    assert min(counts.values()) >= 1
    print(f"24 nights on {type(store).__name__}: {counts}")
