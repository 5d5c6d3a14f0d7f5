"""Writes the demo catalogue: photos, a table of offers and a simulated click log, the same bytes every time."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from samestyle.errors import InputError, UsageError

from .clicks import FIRST_DAY, Click, simulated_clicks
from .days import Listing, shelf
from .files import write_photo
from .offers import BROKEN
from .photo import DRAWING, Photo
from .seeds import stream
from .titles import title
from .words import KINDS

SMALLEST = 60
PHOTOS_PER_TASK = 25
PRICE_STEPS = (1.0, 0.9, 1.08, 0.95, 1.15, 0.85)
VERSION = f"samestyle demo catalogue, drawing {DRAWING}"
_UTC = pa.timestamp("us", tz="UTC")
CATALOGUE_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        ("title", pa.string()),
        ("image_uri", pa.string()),
        ("image_version", pa.string()),
        ("supplier_id", pa.string()),
        ("category", pa.string()),
        ("price", pa.float64()),
        ("in_stock", pa.bool_()),
        ("updated_at", _UTC),
        ("style_group", pa.string()),
    ],
    metadata={"samestyle.demo": VERSION, "about": "generated demo data; style_group is for evaluation only"},
)
CLICKS_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        pa.field("item_id", pa.string(), nullable=False),
        ("query", pa.string()),
        ("clicked_at", _UTC),
    ],
    metadata={"samestyle.demo": VERSION, "about": "SIMULATED clicks of simulated shoppers"},
)


@dataclass(frozen=True)
class DemoCatalogue:
    """Where one day's catalogue lies: `image_uri` in the table at `path` is relative to `image_root`.

    `clicks_path` is the simulated click log of that day.
    """

    path: Path
    clicks_path: Path
    image_root: Path


def write_demo_catalogue(
    root: Path,
    offers: int = 3000,
    day: int = 1,
    seed: int = 7,
    processes: int = 2,
    progress: Callable[[str], None] | None = None,
) -> DemoCatalogue:
    """Write day `day` of a catalogue that starts with `offers` offers, unless it is there and complete.

    Only photos that are not there yet are drawn. A caller with `processes` > 1 must be an importable module or
    guard its start with `if __name__ == "__main__"`, as workers are started afresh.

    Raises UsageError for counts that make no catalogue, InputError when the folder cannot be written.
    """
    if offers < SMALLEST or day < 1 or processes < 1:
        raise UsageError(
            f"a demo catalogue needs at least {SMALLEST} offers, day 1 and 1 process; "
            f"found {offers} offers, day {day}, {processes} processes: raise what is too small"
        )
    folder = Path(root) / f"offers-{offers}-seed-{seed}" / f"day-{day:04d}"
    written = DemoCatalogue(folder / "catalogue.parquet", folder / "clicks.parquet", Path(root))
    try:
        if not _complete(written):
            _write(written, offers, day, seed, processes, progress or (lambda text: None))
    except OSError as problem:
        raise InputError(
            f"the demo catalogue could not be written below {root}: {problem.strerror or problem}; "
            "name a folder that exists or can be made, may be written, and has room (10 MB for 300 offers)"
        ) from problem
    except BrokenExecutor as problem:
        raise UsageError(
            f"a process that draws demo photos ended early ({problem}); a script that starts them needs the guard "
            f'`if __name__ == "__main__"`: add it, or draw with processes=1 instead of {processes}'
        ) from problem
    return written


def catalogue_table(offers: int, day: int, seed: int) -> pa.Table:
    """The offers of one day with the columns of CATALOGUE_SCHEMA, in order of item_id; draws nothing."""
    rows = [_row(listing, seed) for listing in shelf(offers, seed, day).listings.values()]
    return pa.Table.from_pylist(rows, CATALOGUE_SCHEMA)


def clicks_table(offers: int, day: int, seed: int) -> pa.Table:
    """The simulated click log of one day with the columns of CLICKS_SCHEMA."""
    clicks = simulated_clicks(shelf(offers, seed, day), seed, day)
    columns = dict(zip(Click._fields, map(list, zip(*clicks, strict=True)), strict=True))
    return pa.table(columns, CLICKS_SCHEMA)


def photo_of(listing: Listing) -> Photo | None:
    """The photo that a listing shows: a copied one until the supplier takes its own, None where there is none."""
    offer = listing.offer
    if offer.role == "no_image":
        return None
    if listing.photo_edits == 0 and offer.source:
        # Some suppliers link to the original file, others keep a copy of it.
        host = offer.supplier.name if offer.role == "shared_photo" and offer.serial % 2 else ""
        return Photo(offer.style, offer.colour, offer.source.supplier, f"{offer.source.serial}-0", host=host)
    kind = offer.role if offer.role in BROKEN and listing.photo_edits == 0 else "jpeg"
    return Photo(offer.style, offer.colour, offer.supplier, f"{offer.serial}-{listing.photo_edits}", kind)


def _row(listing: Listing, seed: int) -> dict[str, object]:
    offer, photo = listing.offer, photo_of(listing)
    rng = stream(seed, "price", offer.serial)
    price = offer.style.price * rng.uniform(0.85, 1.2) * PRICE_STEPS[listing.price_edits % len(PRICE_STEPS)]
    return {
        "item_id": offer.item_id,
        "title": title(listing, seed),
        "image_uri": photo.uri if photo else None,
        "image_version": f"v{listing.photo_edits + 1}" if photo else None,
        "supplier_id": offer.supplier.name,
        "category": KINDS[offer.style.kind].category,
        "price": round(price, 2),
        "in_stock": (offer.serial + listing.price_edits) % 9 != 0,
        "updated_at": _updated_at(listing),
        "style_group": offer.style.group,
    }


def _updated_at(listing: Listing) -> datetime:
    return FIRST_DAY + timedelta(days=listing.updated_day - 1, seconds=listing.offer.serial % 80_000)


def _complete(written: DemoCatalogue) -> bool:
    """Whether the day is there. The catalogue is written last: where it is, all else is."""
    if not written.path.exists() or not written.clicks_path.exists():
        return False
    try:
        metadata = pq.read_schema(written.path).metadata or {}
    except pa.ArrowInvalid:
        return False
    return metadata.get(b"samestyle.demo") == VERSION.encode()


def _write(
    written: DemoCatalogue, offers: int, day: int, seed: int, processes: int, progress: Callable[[str], None]
) -> None:
    progress(f"demo catalogue: planning {offers} offers, day {day}")
    written.path.parent.mkdir(parents=True, exist_ok=True)
    photos = map(photo_of, shelf(offers, seed, day).listings.values())
    root = written.image_root
    wanted = {photo.uri: photo for photo in photos if photo and not (root / photo.uri).exists()}
    _draw_all(list(wanted.values()), root, processes, progress)
    _write_table(clicks_table(offers, day, seed), written.clicks_path)
    _write_table(catalogue_table(offers, day, seed), written.path)
    progress(f"demo catalogue: written to {written.path}")


def _draw_all(photos: list[Photo], root: Path, processes: int, progress: Callable[[str], None]) -> None:
    tasks = [photos[at : at + PHOTOS_PER_TASK] for at in range(0, len(photos), PHOTOS_PER_TASK)]
    done = 0
    for count in _drawn(tasks, root, min(processes, len(tasks))):
        done += count
        progress(f"demo catalogue: {done} of {len(photos)} photos drawn")


def _drawn(tasks: list[list[Photo]], root: Path, processes: int) -> Iterable[int]:
    if processes < 2:
        yield from (_draw_some(task, root) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(_draw_some, task, root) for task in tasks]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)


def _draw_some(photos: list[Photo], root: Path) -> int:
    for photo in photos:
        write_photo(photo, root)
    return len(photos)


def _end_with_parent() -> None:
    """Workers of a killed generator would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_table(table: pa.Table, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)
