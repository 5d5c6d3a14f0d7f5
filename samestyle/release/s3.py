"""A store on S3, or on a server that speaks its protocol. boto3's own rules give credentials, region and endpoint.

Content goes up in parts with checksums, side by side; an upload that was cut off goes on where it ended. What changes
is written by conditional puts, and only where the server was seen to enforce them.
"""

import contextlib
import hashlib
import io
import os
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
)

from samestyle.errors import UsageError
from samestyle.release.store import (
    MissingObjectError,
    Store,
    StoreError,
    check_key,
    moved_on,
    reporting,
)

PART = 16 * 2**20
MOST_PARTS = 10_000
# What the server copies in one request, by the protocol.
COPY_MOST = 5 * 2**30
COPY_PART = 2**30
THREADS = 8
TRIES = 5
CONNECT_S = 10
READ_S = 60
# Of that many writers at once a server that means its conditions lets one through.
RIVALS = 4
PROBES = "probes"
MISSING = ("404", "NoSuchKey", "NotFound")
DENIED = ("403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
UNMET = ("404", "NoSuchKey", "412", "PreconditionFailed")
MAYBE = ("409", "ConditionalRequestConflict")


class S3Store(Store):
    """Objects below a prefix of a bucket. Pickled, it carries no credentials: each host finds its own."""

    def __init__(self, bucket: str, prefix: str = "", endpoint: str | None = None, region: str | None = None) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self.region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        self._enforced = False

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Store, (self.bucket, self.prefix, self.endpoint, self.region)

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def client(self) -> Any:
        with self.told():
            return client_of(self.endpoint, self.region, os.getpid())

    def place(self, key: str) -> dict[str, str]:
        """Where an object lies, as boto3 wants it. Raises UsageError for a bad key."""
        check_key(key)
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}" if self.prefix else key}

    @contextlib.contextmanager
    def told(self, key: str = "") -> Iterator[None]:
        """Turn boto3's errors into ours, with the place and the way out."""
        try:
            yield
        except (ClientError, BotoCoreError, ValueError) as error:  # ValueError: an answer that makes no sense
            raise explain(error, f"{key} of {self.uri}" if key else self.uri) from error

    def open(self, key: str) -> BinaryIO:
        return io.BufferedReader(ObjectReader(self, key), 2**20)  # type: ignore[return-value]

    def put(self, key: str, data: bytes) -> None:
        with self.told(key):
            self.client.put_object(**self.place(key), Body=data, ChecksumSHA256=sha256_of(data))

    def put_file(self, path: str | Path, key: str) -> None:
        with reporting(path):
            size = Path(path).stat().st_size
        if size <= PART:
            with reporting(path):
                data = Path(path).read_bytes()
            self.put(key, data)
        else:
            with self.told(key):
                upload_parts(self, Path(path), key, size)

    def head(self, key: str) -> dict[str, Any]:
        with self.told(key):
            return self.client.head_object(**self.place(key))

    def size(self, key: str) -> int:
        return int(self.head(key)["ContentLength"])

    def modified_at(self, key: str) -> float:
        return self.head(key)["LastModified"].timestamp()

    def touch(self, key: str) -> None:
        place, size = self.place(key), self.size(key)
        with self.told(key):
            if size <= COPY_MOST:
                self.client.copy_object(CopySource=place, **place, MetadataDirective="REPLACE")
            else:
                copy_parts(self, key, size)

    def list(self, prefix: str = "") -> Iterator[str]:
        own = f"{self.prefix}/" if self.prefix else ""
        with self.told():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=own + prefix)
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(own)

    def delete(self, key: str) -> None:
        with self.told(key):
            self.client.delete_object(**self.place(key))

    def get_file(self, key: str, path: str | Path) -> None:
        """In parts, side by side; all of one version, or StoreError."""
        head = self.head(key)
        size, etag = int(head["ContentLength"]), head["ETag"]

        def fetch(start: int) -> None:
            end = min(start + PART, size)
            with ObjectReader(self, key, start, end, etag) as reader, reporting(path):
                os.pwrite(target.fileno(), reader.readall(), start)

        with reporting(path), open(path, "wb") as target:
            os.truncate(target.fileno(), size)
            in_parallel(fetch, range(0, size, PART))

    def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        check_key(key)
        self.require_conditional_puts()
        found, etag = self.find_tagged(key)
        if found == expected and self.put_if(key, new, etag):
            return
        raise moved_on(key, self.find(key) if found == expected else found, expected)

    def find_tagged(self, key: str) -> tuple[bytes | None, str | None]:
        """(content, ETag) of one version; (None, None) where nothing is stored."""
        try:
            with ObjectReader(self, key) as reader:
                return reader.readall(), reader.etag
        except MissingObjectError:
            return None, None

    def put_if(self, key: str, data: bytes, etag: str | None) -> bool:
        """Write if the object still has this ETag (None: if it is not there); False where it has not."""
        writer = uuid.uuid4().hex
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        body = {"Body": data, "ChecksumSHA256": sha256_of(data), "Metadata": {"writer": writer}}
        for attempt in range(TRIES):
            try:
                with self.told(key):
                    self.client.put_object(**self.place(key), **body, **condition)
                return True
            except StoreError as error:
                code = code_of(error.__cause__)
                if code in MAYBE and attempt < TRIES - 1:
                    pause(attempt)
                elif code in UNMET + MAYBE:
                    break
                else:
                    raise
        # A try whose answer got lost may have written; the next one then finds its own.
        return self.writer_of(key) == writer

    def writer_of(self, key: str) -> str | None:
        try:
            return self.head(key)["Metadata"].get("writer")
        except MissingObjectError:
            return None

    def require_conditional_puts(self) -> None:
        """Try once a process that of several writers one wins. Raises UsageError where the server lets more through."""
        if self._enforced:
            return
        key, wrong = f"{PROBES}/{uuid.uuid4().hex}", f'"{"0" * 32}"'
        try:
            first = sum(in_parallel(lambda n: self.put_if(key, b"%d" % n, None), range(RIVALS)))
            etag = self.head(key)["ETag"]
            late = int(self.put_if(key, b"late", wrong))
            again = sum(in_parallel(lambda n: self.put_if(key, b"again %d" % n, etag), range(RIVALS)))
        finally:
            self.delete(key)
        if (first, late, again) != (1, 0, 1):
            raise UsageError(
                f"{self.uri} does not enforce conditional puts: of {RIVALS} writers at once {first} were told that "
                f"they were the first and {again} that they replaced it, expected 1 and 1; {late} replaced what had "
                "changed, expected 0. Two runs could overwrite each other: use another server, or a newer version"
            )
        self._enforced = True

    def sweep(self, before: float) -> int:
        """Ends the uploads that were begun before that time and never completed; removes probes that were cut off."""
        own = f"{self.prefix}/" if self.prefix else ""
        old = [found for found in unfinished_uploads(self, own) if found["Initiated"].timestamp() < before]
        for found in old:
            with self.told(found["Key"]), contextlib.suppress(self.client.exceptions.NoSuchUpload):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=found["Key"], UploadId=found["UploadId"])
        probes = [key for key in self.list(f"{PROBES}/") if self.modified_at(key) < before]
        for key in probes:
            self.delete(key)
        return len(old) + len(probes)


@lru_cache
def client_of(endpoint: str | None, region: str | None, process: int) -> Any:
    """One a process, because a connection does not survive a fork."""
    retries = {"mode": "standard", "total_max_attempts": TRIES}
    config = Config(retries=retries, connect_timeout=CONNECT_S, read_timeout=READ_S, max_pool_connections=2 * THREADS)
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)


class ObjectReader(io.RawIOBase):
    """An object, or its bytes from `start` to `end`, of one version; goes on where a connection broke off."""

    def __init__(
        self, store: S3Store, key: str, start: int = 0, end: int | None = None, etag: str | None = None
    ) -> None:
        self.store, self.key, self.position, self.end, self.etag = store, key, start, end, etag
        self.failed = 0
        self.body = self.request()

    def request(self) -> Any:
        """Ask for the rest. Raises MissingObjectError, StoreError."""
        wanted: dict[str, str] = {"IfMatch": self.etag} if self.etag else {}
        if self.position or self.end is not None:
            wanted["Range"] = f"bytes={self.position}-{'' if self.end is None else self.end - 1}"
        with self.store.told(self.key):
            answer = self.store.client.get_object(**self.store.place(self.key), **wanted)
        self.etag = answer["ETag"]
        self.end = self.position + int(answer["ContentLength"])
        return answer["Body"]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_some(self, most: int) -> bytes:
        if self.end is None or self.position >= self.end:
            return b""
        while True:
            try:
                data = self.body.read(min(most, self.end - self.position))
                if not data:
                    raise EOFError(f"{self.end - self.position} bytes are missing")
                self.position += len(data)
                return data
            except (BotoCoreError, OSError, EOFError) as error:
                self.go_on(error)

    def go_on(self, error: Exception) -> None:
        """After a broken connection, ask for the rest. Raises StoreError after so many tries."""
        self.body.close()
        self.failed += 1
        if self.failed >= TRIES:
            where = f"{self.key} of {self.store.uri}"
            raise StoreError(
                f"{where} broke off {self.failed} times while it was read, at byte {self.position} of {self.end} "
                f"({error}): is the network up? Try again"
            ) from error
        pause(self.failed)
        self.body = self.request()

    def close(self) -> None:
        if not self.closed and hasattr(self, "body"):
            self.body.close()
        super().close()


def unfinished_uploads(store: S3Store, prefix: str) -> list[dict[str, Any]]:
    """The uploads below a prefix of the bucket that were begun and not completed."""
    with store.told():
        pages = store.client.get_paginator("list_multipart_uploads").paginate(Bucket=store.bucket, Prefix=prefix)
        found = [upload for page in pages for upload in page.get("Uploads", ())]
    return [upload for upload in found if upload["Key"].startswith(prefix)]


def upload_parts(store: S3Store, path: Path, key: str, size: int) -> None:
    """Send a large file. An upload of the same content that was cut off goes on where it ended."""
    for attempt in range(TRIES):
        upload_id, there = begin_upload(store, key)
        try:
            parts = in_parallel(partial(send_part, store, path, key, upload_id, there), parts_of(size))
            store.client.complete_multipart_upload(
                **store.place(key), UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
            return
        except ClientError as error:
            # Completed by a try whose answer got lost, or by another task with the same content.
            if code_of(error) != "NoSuchUpload" or attempt == TRIES - 1:
                raise
            if store.exists(key) and store.size(key) == size:
                return


def parts_of(size: int) -> list[tuple[int, int, int]]:
    """(number, start, bytes) of each part; the same for the same size, so that an upload can go on."""
    part = max(PART, -(-size // MOST_PARTS))
    return [(n + 1, start, min(part, size - start)) for n, start in enumerate(range(0, size, part))]


def begin_upload(store: S3Store, key: str) -> tuple[str, dict[int, dict[str, Any]]]:
    """(id, parts that are there by number). Only content under its own digest goes on with another's upload."""
    place = store.place(key)
    found = unfinished_uploads(store, place["Key"]) if key.startswith("objects/") else []
    found = sorted((one for one in found if one["Key"] == place["Key"]), key=lambda one: one["Initiated"])
    if not found:
        return store.client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256")["UploadId"], {}
    upload_id = found[-1]["UploadId"]
    try:
        pages = store.client.get_paginator("list_parts").paginate(**place, UploadId=upload_id)
        return upload_id, {part["PartNumber"]: part for page in pages for part in page.get("Parts", ())}
    except store.client.exceptions.NoSuchUpload:
        return store.client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256")["UploadId"], {}


def send_part(
    store: S3Store,
    path: Path,
    key: str,
    upload_id: str,
    there: dict[int, dict[str, Any]],
    part: tuple[int, int, int],
) -> dict[str, Any]:
    """Send one part, unless it is there; returns what completing the upload names."""
    number, start, length = part
    with reporting(path), open(path, "rb") as stream:
        stream.seek(start)
        data = stream.read(length)
    checksum, etag = sha256_of(data), hashlib.md5(data, usedforsecurity=False).hexdigest()
    sent = there.get(number)
    if not sent or (sent.get("ChecksumSHA256") != checksum and sent["ETag"].strip('"') != etag):
        place = store.place(key)
        sent = store.client.upload_part(
            **place, UploadId=upload_id, PartNumber=number, Body=data, ChecksumSHA256=checksum
        )
    return {"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": checksum}


def copy_parts(store: S3Store, key: str, size: int) -> None:
    """Let the server copy a large object onto itself."""
    place = store.place(key)
    upload_id = store.client.create_multipart_upload(**place)["UploadId"]

    def copy(part: tuple[int, int]) -> dict[str, Any]:
        number, start = part
        span = f"bytes={start}-{min(start + COPY_PART, size) - 1}"
        copied = store.client.upload_part_copy(
            **place, CopySource=place, CopySourceRange=span, UploadId=upload_id, PartNumber=number
        )
        return {"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]}

    parts = in_parallel(copy, enumerate(range(0, size, COPY_PART), 1))
    store.client.complete_multipart_upload(**place, UploadId=upload_id, MultipartUpload={"Parts": parts})


def in_parallel(function: Callable[[Any], Any], values: Any) -> list[Any]:
    """The function's values, in order; after a failure nothing new is begun."""
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            return list(pool.map(function, values))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def pause(attempt: int) -> None:
    time.sleep(min(5.0, 0.1 * 2**attempt))


def sha256_of(data: bytes) -> str:
    """As the protocol wants it: base64 of the digest."""
    return b64encode(hashlib.sha256(data).digest()).decode()


def code_of(error: BaseException | None) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def explain(error: Exception, where: str) -> StoreError:
    """Our error for one of boto3's."""
    code = code_of(error)
    if code in MISSING:
        return MissingObjectError(f"{where} is not there")
    if code == "NoSuchBucket":
        return StoreError(f"{where}: there is no such bucket: create it, or correct release.store")
    if code in DENIED:
        return StoreError(
            f"no permission for {where} ({code}): it takes s3:GetObject and s3:ListBucket to read, "
            "s3:PutObject and s3:DeleteObject as well to publish"
        )
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StoreError(f"{where}: no credentials ({error}): give the host a role, or set AWS_ACCESS_KEY_ID and such")
    if isinstance(error, EndpointConnectionError):
        return StoreError(f"{where} cannot be reached ({error}): check the network and AWS_ENDPOINT_URL")
    return StoreError(f"{where} failed in {TRIES} tries ({error}): is the service up? Run again")


def open_s3(uri: str) -> S3Store:
    """The store at s3://bucket/prefix. Raises UsageError for another form."""
    parts = urlsplit(uri)
    prefix = parts.path.strip("/")
    if not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            f"{uri} is no store: write s3://bucket/prefix; region, endpoint and credentials come from the environment"
        )
    if prefix:
        check_key(prefix)
    return S3Store(parts.netloc, prefix)
