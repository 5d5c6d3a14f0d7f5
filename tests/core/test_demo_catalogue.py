"""The demo catalogue as files: the same bytes every time, written once, and its unusual photos as promised."""

import hashlib
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, UnidentifiedImageError

from samestyle.demo.catalogue import DemoCatalogue, photo_of, write_demo_catalogue
from samestyle.demo.days import shelf
from samestyle.demo.files import write_photo
from samestyle.demo.offers import BROKEN
from samestyle.demo.photo import Photo, draw
from samestyle.demo.sheet import write_sheet
from samestyle.errors import InputError, UsageError

SIZE = 100


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoCatalogue:
    return write_demo_catalogue(tmp_path_factory.mktemp("demo"), SIZE, processes=1)


@pytest.fixture(scope="module")
def photo() -> Photo:
    found = photo_of(shelf(SIZE, 7, 1).listings[0])
    assert found is not None
    return found


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_bytes_in_another_folder_with_other_processes(demo: DemoCatalogue, tmp_path: Path) -> None:
    write_demo_catalogue(tmp_path, SIZE, processes=2)
    assert digests(tmp_path) == digests(demo.image_root)


def test_another_seed_is_another_shop(demo: DemoCatalogue, photo: Photo) -> None:
    other = photo_of(shelf(SIZE, 8, 1).listings[0])
    assert other is not None
    assert other.uri != photo.uri


def test_every_uri_but_the_missing_ones_is_a_file(demo: DemoCatalogue) -> None:
    uris = {photo.uri: photo.kind for photo in map(photo_of, shelf(SIZE, 7, 1).listings.values()) if photo}
    for uri, kind in uris.items():
        assert (demo.image_root / uri).exists() == (kind != "missing_file")
    table = pq.read_table(demo.path)
    assert set(table["image_uri"].drop_null().to_pylist()) == set(uris)


def test_photos_kept_by_another_supplier_have_the_same_bytes(photo: Photo, tmp_path: Path) -> None:
    copy = replace(photo, host="supplier-999")
    for one in (photo, copy):
        write_photo(one, tmp_path)
    assert copy.uri != photo.uri
    assert (tmp_path / copy.uri).read_bytes() == (tmp_path / photo.uri).read_bytes()


def test_a_rerun_writes_nothing(demo: DemoCatalogue) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.image_root.rglob("*")}
    said: list[str] = []
    assert write_demo_catalogue(demo.image_root, SIZE, progress=said.append) == demo
    assert {path: path.stat().st_mtime_ns for path in demo.image_root.rglob("*")} == before
    assert not said


def test_a_killed_run_is_finished_by_the_next(demo: DemoCatalogue, tmp_path: Path) -> None:
    shutil.copytree(demo.image_root, tmp_path, dirs_exist_ok=True)
    (tmp_path / demo.path.relative_to(demo.image_root)).unlink()
    for path in sorted(tmp_path.glob("images/*/*"))[::7]:
        path.unlink()
    write_demo_catalogue(tmp_path, SIZE, processes=1)
    assert digests(tmp_path) == digests(demo.image_root)


def test_a_new_day_draws_only_new_photos(demo: DemoCatalogue, tmp_path: Path) -> None:
    shutil.copytree(demo.image_root, tmp_path, dirs_exist_ok=True)
    said: list[str] = []
    write_demo_catalogue(tmp_path, SIZE, day=2, processes=1, progress=said.append)
    first, both = digests(demo.image_root), digests(tmp_path)
    assert {name: both[name] for name in first} == first
    drawn = sum(name.startswith("images") for name in both.keys() - first.keys())
    assert 1 <= drawn <= 3
    assert f"demo catalogue: {drawn} of {drawn} photos drawn" in said


@pytest.mark.parametrize("kind", [kind for kind, broken in BROKEN.items() if not broken])
def test_unusual_photos_show_the_same_picture(photo: Photo, kind: str, tmp_path: Path) -> None:
    unusual = replace(photo, kind=kind)
    write_photo(unusual, tmp_path)
    with Image.open(tmp_path / unusual.uri) as picture:
        form, mode = picture.format, picture.mode
        picture.load()
    expected = {
        "rgba_png": ("PNG", "RGBA"),
        "cmyk": ("JPEG", "CMYK"),
        "gif": ("GIF", "P"),
        "png_named_jpg": ("PNG", "RGB"),
    }
    assert (form, mode) == expected.get(kind, ("JPEG", "RGB"))
    height, width = draw(photo).shape[:2]
    assert picture.size == ((height, width) if kind == "exif_rotated" else (width, height))


@pytest.mark.parametrize("kind", ["truncated", "zero_bytes", "html_page", "missing_file"])
def test_broken_photos_cannot_be_decoded(photo: Photo, kind: str, tmp_path: Path) -> None:
    broken = replace(photo, kind=kind)
    write_photo(broken, tmp_path)
    with pytest.raises((UnidentifiedImageError, OSError)), Image.open(tmp_path / broken.uri) as picture:
        picture.load()


def test_a_photo_of_one_pixel(photo: Photo, tmp_path: Path) -> None:
    tiny = replace(photo, kind="one_pixel")
    write_photo(tiny, tmp_path)
    with Image.open(tmp_path / tiny.uri) as picture:
        assert picture.size == (1, 1)


def test_a_huge_photo_is_a_small_file(photo: Photo, tmp_path: Path) -> None:
    huge = replace(photo, kind="huge")
    write_photo(huge, tmp_path)
    data = (tmp_path / huge.uri).read_bytes()
    # Width and height stand at bytes 16 to 24 of a PNG; decoders refuse to go on from there.
    assert struct.unpack(">II", data[16:24]) == (20_000, 12_000)
    assert len(data) < 100_000


def test_colours_and_suppliers_change_the_picture(photo: Photo) -> None:
    white = replace(photo, supplier=replace(photo.supplier, background="white", tilt=0.0))
    other = replace(white, colour=next(name for name in photo.style.colours if name != photo.colour))
    assert np.abs(draw(white).astype(int) - draw(other).astype(int)).mean() > 1


@pytest.mark.parametrize(("offers", "day"), [(59, 1), (100, 0)])
def test_senseless_counts_are_refused(tmp_path: Path, offers: int, day: int) -> None:
    with pytest.raises(UsageError, match=f"found {offers} offers, day {day}"):
        write_demo_catalogue(tmp_path, offers, day)


def test_a_damaged_table_is_written_anew(demo: DemoCatalogue, tmp_path: Path) -> None:
    shutil.copytree(demo.image_root, tmp_path, dirs_exist_ok=True)
    table = tmp_path / demo.path.relative_to(demo.image_root)
    table.write_bytes(b"half a file")
    write_demo_catalogue(tmp_path, SIZE, processes=1)
    assert table.read_bytes() == demo.path.read_bytes()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"could not be written below .*file"):
        write_demo_catalogue(tmp_path / "file", SIZE)


def test_contact_sheet(demo: DemoCatalogue, tmp_path: Path) -> None:
    write_sheet(demo, tmp_path / "sheet.png", count=20)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2000
