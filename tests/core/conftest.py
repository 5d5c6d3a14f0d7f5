"""Encoders that many tests look at and none changes, exported once a session; and an empty store on S3."""

import uuid
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def late_fusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from samestyle.encoder.export import export_late_fusion

    folder = tmp_path_factory.mktemp("encoders") / "late_fusion"
    export_late_fusion(folder)
    return folder


@pytest.fixture(scope="session")
def unified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Around a fusion with random weights, whose steps are about as long as its cap allows."""
    from unified import random_fusion

    from samestyle.encoder.export import export_unified

    folder = tmp_path_factory.mktemp("encoders") / "unified"
    export_unified(
        folder, random_fusion(), {"training": [{"name": "dice", "licence": "CC0-1.0", "used": "thrown once"}]}
    )
    return folder


@pytest.fixture(scope="session")
def bucket(object_store) -> str:
    return object_store.new_bucket()


@pytest.fixture
def s3(object_store, bucket, monkeypatch):
    """An empty store on a real S3 server, below a prefix of its own."""
    from samestyle.release.store import open_store

    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{bucket}/{uuid.uuid4().hex}")


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path):
    """Either kind of store, empty: what is asked of it holds wherever a release lies."""
    from samestyle.release.store import LocalStore

    return LocalStore(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("s3")
