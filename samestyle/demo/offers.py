"""Who sells what: suppliers, styles and offers, each a pure function of the seed and a serial number."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from .seeds import stream
from .words import COLLECTIONS, COLOURS, KINDS, PATTERNS

OFFERS_PER_STYLE = 10 / 3
OFFERS_PER_SUPPLIER = 75
GOLDEN = 0.6180339887498949

# What an offer's photo file is when it is not a plain JPEG. True: no decoder, or no sane limit, accepts it.
BROKEN = {
    "truncated": True,
    "one_pixel": True,
    "huge": True,
    "zero_bytes": True,
    "html_page": True,
    "missing_file": True,
    "cmyk": False,
    "rgba_png": False,
    "gif": False,
    "png_named_jpg": False,
    "exif_rotated": False,
    "progressive": False,
}
SHARES = {"shared_photo": 0.08, "near_duplicate": 0.02, "no_image": 0.03, "no_title": 0.02} | {
    name: 0.0016 if broken else 0.004 for name, broken in BROKEN.items()
}
# By number, so that no seed makes a shop whose few large suppliers all happen to write Swedish.
TONGUES = ("en", "en", "de", "en", "sv", "en", "es", "en", "en", "fr")
# The share of suppliers whose titles have a place for it.
TITLE_SLOTS = {"noun": 1, "pattern": 0.85, "material": 0.85, "colour": 0.85, "size": 0.8, "feature": 0.8} | {
    "collection": 0.9,
    "selling": 0.5,
}
BACKGROUNDS = ("white", "white", "white", "grey", "gradient", "table", "room", "tint", "marble")


@dataclass(frozen=True)
class Supplier:
    """A seller with habits: how its photos look and how its titles are worded."""

    name: str
    language: str
    background: str
    tint: int
    size: int
    aspect: float
    tilt: float
    quality: int
    watermark: str
    border: bool
    badge: float
    warmth: float
    order: tuple[str, ...]
    separator: str
    letters: str
    imperial: bool


@dataclass(frozen=True)
class Style:
    """A product design: all offers of one style are the same style in whatever colour and size.

    `form` numbers the kind's mould, which a dozen styles share; `shape_seed` is what is its own.
    """

    number: int
    kind: str
    form: int
    shape_seed: int
    pattern: str
    colours: tuple[str, ...]
    second: str
    material: str
    feature: str
    collection: str
    price: float

    @property
    def group(self) -> str:
        return f"style-{self.number:06d}"


@dataclass(frozen=True)
class Offer:
    """One supplier's listing of one style. `source` is the offer whose photo it took over, if any."""

    serial: int
    style: Style
    supplier: Supplier
    role: str
    colour: str
    size: int
    source: "Offer | None"

    @property
    def item_id(self) -> str:
        return f"item-{self.serial:06d}"

    @property
    def untitled(self) -> bool:
        """No title: some offers with a good photo, and some with a broken one, which nothing can be made of."""
        return self.role == "no_title" or (BROKEN.get(self.role, False) and self.serial % 3 == 0)


def supplier(seed: int, number: int) -> Supplier:
    """The supplier of that number, always the same one for a seed."""
    rng = stream(seed, "supplier", number)
    kept = [slot for slot, habit in TITLE_SLOTS.items() if rng.random() < habit]
    return Supplier(
        name=f"supplier-{number:03d}",
        language=TONGUES[number % len(TONGUES)],
        background=str(rng.choice(BACKGROUNDS)),
        tint=COLOURS[str(rng.choice(list(COLOURS)))],
        size=int(rng.choice([300, 400, 480, 520, 600, 640, 800], p=(0.1, 0.2, 0.2, 0.2, 0.15, 0.1, 0.05))),
        aspect=float(rng.choice([1.0, 1.0, 1.0, 0.8, 1.25])),
        tilt=float(rng.choice([0.0, 0.0, 4.0, 9.0])),
        quality=int(rng.integers(45, 95)),
        watermark=f"{rng.choice(COLLECTIONS)} {rng.choice(['Shop', '& Co', 'Home'])}" if rng.random() < 0.3 else "",
        border=bool(rng.random() < 0.1),
        badge=float(rng.choice([0.0, 0.0, 0.0, 0.15, 0.5])),
        warmth=float(rng.normal(0, 0.5)),
        order=tuple(map(str, rng.permutation(kept))),
        separator=str(rng.choice([" ", " ", " ", " - ", ", ", " | "])),
        letters=str(rng.choice(["plain", "plain", "capitalised", "upper"], p=(0.35, 0.25, 0.3, 0.1))),
        imperial=bool(rng.random() < 0.3),
    )


def style(seed: int, number: int) -> Style:
    """The style of that number, always the same one for a seed."""
    rng = stream(seed, "style", number)
    # 5 and the 16 kinds share no divisor: few styles already cover every kind.
    kind = list(KINDS.values())[number * 5 % len(KINDS)]
    palette = list(map(str, rng.choice(list(COLOURS), size=int(rng.integers(3, 6)), replace=False)))
    return Style(
        number=number,
        kind=kind.name,
        form=int(rng.integers(12)),
        shape_seed=int(rng.integers(2**31)),
        pattern=str(rng.choice(PATTERNS)),
        colours=tuple(palette[1:]),
        second=palette[0],
        material=str(rng.choice(kind.materials)),
        feature=str(rng.choice(kind.features)),
        collection=str(rng.choice(COLLECTIONS)),
        price=round(kind.price * float(rng.lognormal(0, 0.35)), 2),
    )


def role(seed: int, serial: int) -> str:
    """What is special about an offer: a key of SHARES, or `plain`.

    Multiples of the golden ratio fill [0, 1) evenly, so that any run of serials holds each role in its share.
    """
    position = (serial * GOLDEN + seed * 0.1) % 1
    for name, share in SHARES.items():
        position -= share
        if position < 0:
            return name
    return "plain"


def offers(seed: int, suppliers: int) -> Iterator[Offer]:
    """All offers in order of appearance, without end; a catalogue of n offers starts with the first n."""
    sellers = [supplier(seed, number) for number in range(suppliers)]
    anchors: list[Offer] = []
    for serial in count():
        rng = stream(seed, "offer", serial)
        what = role(seed, serial) if anchors else "plain"
        opens = what == "plain" and len(anchors) * OFFERS_PER_STYLE <= serial
        anchor = None if opens else anchors[int(rng.integers(len(anchors)))]
        # Squared: a few suppliers list much, many list little.
        seller = int(rng.random() ** 2 * suppliers)
        if anchor and what != "near_duplicate" and sellers[seller] == anchor.supplier:
            seller = (seller + 1) % suppliers
        chosen = style(seed, len(anchors)) if anchor is None else anchor.style
        copied = anchor if what in ("shared_photo", "near_duplicate") else None
        offer = Offer(
            serial=serial,
            style=chosen,
            supplier=anchor.supplier if anchor and what == "near_duplicate" else sellers[seller],
            role=what,
            colour=copied.colour if copied else str(rng.choice(chosen.colours)),
            size=int(rng.choice(KINDS[chosen.kind].sizes)),
            source=copied,
        )
        if anchor is None:
            anchors.append(offer)
        yield offer
