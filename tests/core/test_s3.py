"""What only a store on S3 has to hold: parts, uploads that go on, conditional puts, a server that fails."""

import hashlib
import os
import pickle
import random

import pytest
from fault_proxy import faulty

from samestyle.errors import ConflictError, IntegrityError, UsageError
from samestyle.release import s3 as room
from samestyle.release.s3 import S3Store
from samestyle.release.store import MissingObjectError, StoreError, open_store

SMALL_PART = 5 * 2**20  # the smallest that the protocol allows


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(room, "PART", SMALL_PART)


@pytest.fixture
def quick(monkeypatch):
    """Retries follow each other without a pause."""
    monkeypatch.setattr(room, "pause", lambda attempt: None)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.0)


@pytest.fixture
def proxy(object_store):
    with faulty(object_store.endpoint) as proxy:
        yield proxy


@pytest.fixture
def behind(s3, proxy, quick):
    """The same place as `s3`, through the proxy."""
    return S3Store(s3.bucket, s3.prefix, proxy.endpoint)


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(random.Random(1).randbytes(2 * SMALL_PART + 1000))
    return path


def paths(proxy, method):
    return [path for found, path in proxy.seen if found == method]


def test_a_large_file_goes_up_and_comes_back_in_parts(behind, proxy, parts, large, tmp_path):
    ref = behind.put_object(large, ".hnsw")
    assert len([path for path in paths(proxy, "PUT") if "partNumber=" in path]) == 3
    proxy.seen.clear()
    behind.get_object(ref, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()
    assert len(paths(proxy, "GET")) == 3
    assert behind.digest(ref.key) == (hashlib.sha256(large.read_bytes()).hexdigest(), large.stat().st_size)


def test_an_upload_that_was_cut_off_goes_on(behind, proxy, parts, large):
    proxy.fail("503", 1000, "PUT", "partNumber=3")
    with pytest.raises(StoreError, match="SlowDown"):
        behind.put_object(large, ".hnsw")
    assert list(behind.list()) == []
    proxy.plan = lambda method, path: None
    proxy.seen.clear()
    ref = behind.put_object(large, ".hnsw")
    assert [path.partition("partNumber=")[2][0] for path in paths(proxy, "PUT")] == ["3"]
    assert behind.digest(ref.key)[0] == ref.sha256
    assert room.unfinished_uploads(behind, behind.prefix) == []


def test_other_content_never_goes_on_with_anothers_upload(s3, parts, large):
    place = s3.place("encoders/e/model.onnx")
    s3.client.create_multipart_upload(**place)
    s3.put_file(large, "encoders/e/model.onnx")
    assert s3.size("encoders/e/model.onnx") == large.stat().st_size
    assert len(room.unfinished_uploads(s3, s3.prefix)) == 1


def test_a_part_of_other_content_is_sent_again(s3, parts, large):
    key = f"objects/{hashlib.sha256(large.read_bytes()).hexdigest()}.hnsw"
    upload = s3.client.create_multipart_upload(**s3.place(key))["UploadId"]
    s3.client.upload_part(**s3.place(key), UploadId=upload, PartNumber=1, Body=b"x" * SMALL_PART)
    ref = s3.put_object(large, ".hnsw")
    assert s3.digest(key)[0] == ref.sha256


@pytest.mark.parametrize("most", [5 * 2**30, SMALL_PART])
def test_a_touched_object_is_young_again_and_the_same(s3, parts, large, monkeypatch, most):
    monkeypatch.setattr(room, "COPY_MOST", most)
    monkeypatch.setattr(room, "COPY_PART", SMALL_PART)
    ref = s3.put_object(large, ".hnsw")
    before = s3.modified_at(ref.key)
    while s3.modified_at(ref.key) == before:  # the server counts in seconds
        s3.touch(ref.key)
    assert s3.modified_at(ref.key) > before
    assert s3.digest(ref.key) == (ref.sha256, ref.bytes)


def test_a_completion_whose_answer_is_lost_counts(behind, proxy, parts, large):
    proxy.fail("lost", 1, "POST", "uploadId=")
    ref = behind.put_object(large, ".hnsw")
    assert behind.digest(ref.key)[0] == ref.sha256


@pytest.mark.parametrize("fault", ["500", "503", "reset", "lost", "pause"])
def test_what_fails_for_a_moment_is_tried_again(behind, proxy, fault, tmp_path):
    proxy.fail(fault, 2)
    behind.put("a", b"one")
    proxy.fail(fault, 2)
    assert behind.get("a") == b"one"
    proxy.fail(fault, 2)
    assert behind.size("a") == 3
    proxy.fail(fault, 2)
    assert list(behind.list()) == ["a"]
    assert proxy.done[-1][0] == fault


def test_a_body_that_breaks_off_is_asked_for_from_there(behind, proxy, tmp_path):
    data = random.Random(2).randbytes(3 * 2**20)
    behind.put("a", data)
    proxy.fail("truncate", 3, "GET")
    assert behind.get("a") == data
    proxy.fail("truncate", 3, "GET")
    behind.get_file("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncate"])
def test_what_keeps_failing_ends_after_so_many_tries(behind, proxy, fault):
    behind.put("a", b"one" * 1000)
    proxy.seen.clear()
    proxy.fail(fault, 1000, "GET")
    with pytest.raises(StoreError, match="a of s3://"):
        behind.get("a")
    assert len(proxy.seen) <= room.TRIES


def test_a_server_that_pauses_for_too_long_is_given_up_after_so_many_tries(behind, proxy, monkeypatch):
    behind.put("a", b"one")
    monkeypatch.setattr(room, "READ_S", 0.1)
    room.client_of.cache_clear()
    proxy.seen.clear()
    proxy.pause_s = 0.5
    proxy.fail("pause", 1000)
    with pytest.raises(StoreError, match=r"a of s3://.* failed in 5 tries \(Read timeout"):
        behind.put("a", b"two")
    assert len(proxy.seen) == room.TRIES
    with pytest.raises(StoreError, match=r"a of s3://.* failed in 5 tries \(Read timeout"):
        behind.get("a")
    assert len(proxy.seen) == 2 * room.TRIES
    room.client_of.cache_clear()


def test_a_bit_that_flips_on_the_way_is_noticed(behind, proxy, tmp_path):
    (tmp_path / "file").write_bytes(os.urandom(2000))
    ref = behind.put_object(tmp_path / "file", ".hnsw")
    proxy.fail("flip", 1, "GET")
    with pytest.raises((IntegrityError, StoreError)):
        behind.get_object(ref, tmp_path / "copy")
    behind.get_object(ref, tmp_path / "copy")


@pytest.mark.parametrize("fault", ["lost", "500", "503", "reset", "409"])
def test_a_swap_whose_answer_is_lost_counts_once(behind, proxy, fault):
    behind.swap("channels/current", None, b"one")
    for number in range(3):
        proxy.fail(fault, 1, "PUT", "channels/current")
        behind.swap("channels/current", b"one", b"two %d" % number)
        assert behind.get("channels/current") == b"two %d" % number
        behind.swap("channels/current", b"two %d" % number, b"one")


def test_a_swap_that_is_told_412_has_not_happened(behind, proxy):
    behind.swap("channels/current", None, b"one")
    proxy.fail("412", 1, "PUT", "channels/current")
    with pytest.raises(ConflictError, match="found one, expected one"):
        behind.swap("channels/current", b"one", b"two")
    assert behind.get("channels/current") == b"one"


@pytest.mark.parametrize("heeded", ["first", "later"])
def test_a_server_that_ignores_conditions_is_refused(behind, proxy, monkeypatch, heeded):
    """It takes the put all the same: what servers did before they knew of these headers."""
    ignored = {"first": "If-Match", "later": "If-None-Match"}[heeded]

    def without(model, params, **ignored_too):
        params["headers"].pop(ignored, None)

    events = behind.client.meta.events
    events.register("before-call.s3.PutObject", without)
    try:
        with pytest.raises(UsageError, match=r"does not enforce conditional puts: of 4 writers at once"):
            behind.swap("channels/current", None, b"one")
    finally:
        events.unregister("before-call.s3.PutObject", without)
    assert list(behind.list()) == []


def test_the_conditions_are_tried_once_and_nothing_is_left(behind, proxy):
    behind.swap("a", None, b"one")
    proxy.seen.clear()
    behind.swap("a", b"one", b"two")
    assert [method for method, _ in proxy.seen] == ["GET", "PUT"]
    assert list(behind.list()) == ["a"]


def test_a_probe_that_was_cut_off_is_swept(s3):
    s3.put("probes/0123", b"1")
    assert s3.sweep(100) == 0
    assert s3.sweep(4e9) == 1
    assert list(s3.list()) == []


def test_readers_write_nothing(behind, proxy):
    with pytest.raises(MissingObjectError):
        behind.get("channels/current")
    assert {method for method, _ in proxy.seen} == {"GET"}


def test_trouble_is_told_with_the_way_out(s3, object_store, monkeypatch, quick):
    with pytest.raises(StoreError, match="no such bucket: create it"):
        open_store("s3://nobody-has-made-this").get("a")
    with pytest.raises(StoreError, match=r"cannot be reached .* check the network and AWS_ENDPOINT_URL"):
        S3Store(s3.bucket, endpoint="http://127.0.0.1:9").get("a")
    room.client_of.cache_clear()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match=r"no permission for a of s3://.* \(SignatureDoesNotMatch\)"):
        s3.get("a")
    room.client_of.cache_clear()


@pytest.mark.parametrize("uri", ["s3://", "s3:///prefix", "s3://key@bucket/a", "s3://bucket/a?b=c", "s3://bucket/../a"])
def test_what_is_no_place_on_s3_is_told(uri):
    with pytest.raises(UsageError):
        open_store(uri)


def test_credentials_do_not_travel(s3, object_store):
    s3.put("a", b"1")
    sent = pickle.dumps(s3)
    assert object_store.secret_key.encode() not in sent
    assert pickle.loads(sent).get("a") == b"1"
