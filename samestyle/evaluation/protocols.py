"""How encoders are compared on open catalogues: which rows ask which, and which directions mean something there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from samestyle.catalogue.images import DecodeLimits, decode_image, image_digest
from samestyle.catalogue.titles import normalise_title
from samestyle.errors import UsageError
from samestyle.evaluation.directions import DIRECTIONS, Measured
from samestyle.evaluation.truth import ANNOTATED, BETWEEN, WITHIN, Products, Queries, search
from samestyle.training.projection import held_out

Views = dict[str, np.ndarray]
Encode = Callable[[Sequence[str | None], Sequence[np.ndarray | None]], Views]
PHOTO_QUERIES = ("i-i", "i-t", "i-m", "t-i", "m-i")
TEXT_PAIRS = "text_product_pairs"


@dataclass(frozen=True)
class Protocol:
    """Products of one supplier search those of another; all of a set search each other where both are None.

    truth: the column whose equal values mean a right answer. `directions` leaves out what means nothing on this set.
    runs_only: too small to say more than that an encoder runs.
    """

    name: str
    dataset: str
    truth: str
    query: str | None
    pool: str | None
    directions: tuple[str, ...] = DIRECTIONS
    copies: tuple[str, ...] = BETWEEN
    runs_only: bool = False


@dataclass(frozen=True)
class Part:
    """The rows of a set that are measured. titles: as the encoder sees them; images: bytes. Equal lengths."""

    ids: list[str]
    titles: list[str | None]
    images: list[bytes | None]
    suppliers: list[str | None]
    labels: list[str | None]

    def pixels(self, size: int) -> list[np.ndarray | None]:
        """The photos as an encoder takes them, (size, size, 3) uint8."""
        return [None if data is None else decode_image(data, DecodeLimits(), size) for data in self.images]

    @cached_property
    def photos(self) -> list[str | None]:
        return [None if data is None else image_digest(data) for data in self.images]

    def products(self, views: Views) -> Products:
        """views: vectors of all rows, in their order."""
        return Products(self.ids, self.labels, self.photos, self.titles, views)

    def of(self, supplier: str | None) -> np.ndarray:
        """Rows of a supplier, or all."""
        return np.flatnonzero([supplier is None or name == supplier for name in self.suppliers])


def protocols() -> tuple[Protocol, ...]:
    """All photos of a luma product share its title, so that searching titles by title there only finds the same text:
    nothing with a title on both sides is measured. The title of a grocery photo is its class: likewise."""
    return (
        Protocol("luma, style", "magento_luma", "style_id", None, None, PHOTO_QUERIES, WITHIN),
        Protocol(
            "grocery, store test -> train", "grocery_store", "group_id", "instore-test", "instore-train", ("i-i",)
        ),
        Protocol(
            "grocery, store -> web", "grocery_store", "group_id", "instore-test", "webshop", ("i-i", "i-t", "i-m")
        ),
        Protocol("emoji, google -> fluent3d", "emoji_multivendor", "group_id", "google", "fluent3d"),
        Protocol(
            "esspr, the ten published pairs (runs, not good)",
            "esspr_20",
            "group_id",
            "esspr-trigger",
            "esspr-recall",
            copies=ANNOTATED,
            runs_only=True,
        ),
    )


def evaluate(
    encode: Encode,
    image_size: int,
    data: Path,
    chosen: Sequence[Protocol] | None = None,
    whole_set: bool = False,
    titles: bool = True,
) -> Iterator[tuple[str, dict[str, Measured]]]:
    """(name of a protocol, its directions), one after the other; `titles`: those of the labelled pairs of titles too.

    encode(titles, images) -> {view: (rows, dim) float32}, as Encoder.encode. whole_set: measure all groups, for an
    encoder that was trained on none of them; default: the groups that training holds out.
    Raises UsageError where a set is not in `data`.
    """
    encoded: dict[tuple[str, str], tuple[Part, Views]] = {}
    for protocol in protocols() if chosen is None else chosen:
        key = (protocol.dataset, protocol.truth)
        if key not in encoded:
            part = read_part(data, protocol, whole_set)
            encoded[key] = part, encode(part.titles, part.pixels(image_size))
        yield protocol.name, evaluate_vectors(protocol, *encoded[key])
    if titles:
        for dataset in title_sets(data):
            yield f"{dataset}, pairs of titles", {"t-t": evaluate_titles(encode, data, dataset)}


def evaluate_vectors(protocol: Protocol, part: Part, views: Views) -> dict[str, Measured]:
    """One protocol on vectors that are there already: {view: (rows, dim) float32}, in the order of the part."""
    products = part.products(views)
    queries = products.take(part.of(protocol.query)).queries()
    return search(queries, products.take(part.of(protocol.pool)), protocol.directions, protocol.copies)


def read_part(data: Path, protocol: Protocol, whole_set: bool = False) -> Part:
    """The rows of a set that a protocol measures: the groups that are held out of training, or the whole set."""
    columns = ["item_id", "title", "image", "supplier_id", protocol.truth]
    table = read_set(data, protocol.dataset, columns)
    if not (whole_set or protocol.runs_only):
        table = table.filter(held_out(np.array([group or "" for group in table[protocol.truth].to_pylist()])))
    ids, titles, images, suppliers, labels = (table[column].to_pylist() for column in columns)
    return Part(ids, [normalise_title(title) for title in titles], images, suppliers, labels)


def title_sets(data: Path) -> list[str]:
    return sorted(set(read_set(data, TEXT_PAIRS, ["dataset"])["dataset"].to_pylist()))


def evaluate_titles(encode: Encode, data: Path, dataset: str) -> Measured:
    """Left titles of the test split search all its right titles; a pair with label 1 is a right answer."""
    table = read_set(data, TEXT_PAIRS, ["dataset", "split", "left_title", "right_title", "label"])
    table = table.filter(pc.and_(pc.equal(table["dataset"], dataset), pc.equal(table["split"], "test")))
    wanted: dict[str, set[str]] = {}
    for left, right, label in zip(*(table[c].to_pylist() for c in ("left_title", "right_title", "label")), strict=True):
        if label == 1:
            wanted.setdefault(left, set()).add(right)
    asked, pool = list(wanted), list(dict.fromkeys(table["right_title"].to_pylist()))
    vectors = encode([normalise_title(title) for title in asked + pool], [None] * (len(asked) + len(pool)))["text"]
    nothing = [None] * len(pool)
    queries = Queries(
        asked, list(wanted.values()), [None] * len(asked), [None] * len(asked), asked, {"text": vectors[: len(asked)]}
    )
    products = Products(pool, pool, nothing, pool, {"text": vectors[len(asked) :]})
    return search(queries, products, ("t-t",), ANNOTATED)["t-t"]


def read_set(data: Path, dataset: str, columns: list[str]) -> pa.Table:
    path = data / f"{dataset}.parquet"
    if not path.is_file():
        raise UsageError(f"no {path}: --data must name the folder that holds {dataset}.parquet")
    return pq.read_table(path, columns=columns)
