"""An item as pages and API show it: what the index knows of it, with what the display files do."""

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import urlencode, urlsplit

import cv2
from numpy import ndarray

from samestyle.serving import Hit
from samestyle.serving.display import Card
from samestyle.web.shop import Aisle

PRICE = "price"
IN_STOCK = "in_stock"


@dataclass(frozen=True)
class Offer:
    """photo: the address where a browser finds it, None for none. score: the cosine to what was asked for."""

    item_id: str
    title: str | None
    supplier_id: str | None
    category: str | None
    attributes: dict[str, Any]
    score: float
    photo: str | None

    @property
    def name(self) -> str:
        return self.title or self.item_id

    @property
    def shelf(self) -> str | None:
        """The last part of the category."""
        return self.category.rpartition("/")[2] if self.category else None

    @property
    def price(self) -> str | None:
        value = self.attributes.get(PRICE)
        return f"{value:,.2f}" if isinstance(value, float | int) and not isinstance(value, bool) else None

    @property
    def in_stock(self) -> bool | None:
        value = self.attributes.get(IN_STOCK)
        return value if isinstance(value, bool) else None

    @property
    def further(self) -> dict[str, Any]:
        """The attributes that have no place of their own."""
        return {name: value for name, value in self.attributes.items() if name not in (PRICE, IN_STOCK)}


def link(path: str, **parameters: object) -> str:
    """A path with those parameters that are not None, whatever characters they have."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def make_offers(aisle: Aisle, hits: Sequence[Hit], remote_photos: bool) -> list[Offer]:
    """remote_photos: a browser may load what has no thumbnail from where the catalogue says."""
    cards = aisle.cards(list(hits))
    return [make_offer(aisle.module, hit, cards[hit.item_id] or Card(), remote_photos) for hit in hits]


def make_offer(module: str, hit: Hit, card: Card, remote_photos: bool) -> Offer:
    own = link("/thumb", item=hit.item_id, module=module) if card.thumbnail else None
    remote = card.image_uri if remote_photos and is_web_address(card.image_uri) else None
    attributes = {name: plain(value) for name, value in hit.attributes.items()}
    score = round(hit.score, 4)
    return Offer(hit.item_id, card.title, hit.supplier_id, hit.category, attributes, score, own or remote)


def plain(value: Any) -> Any:
    """The value as JSON has it: a catalogue's attributes may be of any type."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.isoformat() if isinstance(value, date) else str(value)


def is_web_address(uri: str | None) -> bool:
    try:
        return bool(uri) and urlsplit(uri).scheme in ("http", "https")
    except ValueError:
        return False


def etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()}"'


def data_uri(pixels: ndarray) -> str:
    """(height, width, 3) uint8 RGB as a small JPEG inside of an address: our own encoding, not the stranger's file."""
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
