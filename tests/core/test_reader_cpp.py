"""The reader in C++ that docs/serving.md shows finds what ours finds, with nothing but hnswlib's headers."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from releases import DIM, Catalogue, publish_small, small_catalogue

from samestyle.release.export import export_release
from samestyle.release.store import LocalStore
from samestyle.serving import open_release

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "docs" / "examples" / "reader.cpp"


def headers() -> Path | None:
    """hnswlib's headers, which are in its source package: named by $HNSWLIB_HEADERS, or where set-up has built it."""
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
    named = [Path(os.environ["HNSWLIB_HEADERS"])] if "HNSWLIB_HEADERS" in os.environ else []
    places = [*named, *sorted(cache.glob("sdists-*/pypi/hnswlib/0.8.0/*/src"))]
    return next((place for place in places if (place / "hnswlib" / "hnswlib.h").is_file()), None)


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    found = headers()
    if found is None or shutil.which("g++") is None:
        pytest.skip("no g++, or no headers of hnswlib 0.8.0: unpack its source package and set HNSWLIB_HEADERS")
    program = tmp_path_factory.mktemp("reader") / "reader"
    command = ["g++", "-O1", "-std=c++17", "-pthread", "-Wall", "-Wextra", f"-isystem{found}", str(SOURCE)]
    done = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return program


def ask(reader: Path, folder: Path, query: np.ndarray, k: int) -> list[tuple[str, float]]:
    command = [str(reader), str(folder), str(DIM), "50", str(k)]
    done = subprocess.run(command, input=query.astype(np.float32).tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    return [(item, float(score)) for item, score in lines]


def test_it_finds_what_ours_finds(reader, tmp_path):
    """Two shards, nodes with two items, dead items, and an id that JSON has to escape."""
    catalogue = small_catalogue()
    rows = [{**row, "alive": row["label"] not in (3, 4, 5) and row["item_id"] != "i00010a"} for row in catalogue.rows]
    rows[0]["item_id"] = 'i00000"\\a'
    store = LocalStore(tmp_path / "store")
    publish_small(store, tmp_path / "built", catalogue=Catalogue(catalogue.vectors, rows))
    export_release(store, "r1", tmp_path / "out")
    ours = open_release(store.uri, "search", tmp_path / "cache")
    for query in (catalogue.vectors[0], catalogue.vectors[3], catalogue.vectors[10]):
        found = ask(reader, tmp_path / "out/search/fused", query, 10)
        hits = ours.search(query, 10, items_per_node=10)[0]
        assert [item for item, _ in found] == [hit.item_id for hit in hits]
        np.testing.assert_allclose([score for _, score in found], [hit.score for hit in hits], atol=1e-5)


def test_it_is_as_short_as_we_say_and_stands_in_the_docs():
    text = SOURCE.read_text()
    assert len(text.splitlines()) < 80
    assert text in (ROOT / "docs" / "serving.md").read_text()
