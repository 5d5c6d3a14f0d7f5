"""Titles as each supplier words them: its language, order, synonyms, units and selling words."""

from .days import Listing
from .offers import Offer, Supplier
from .seeds import stream
from .words import KINDS, SELLING, synonyms

CLOTHING = ("S", "M", "L", "XL")
EDITS = ("2026", "new edition", "restocked", "improved", "last pieces")


def title(listing: Listing, seed: int) -> str | None:
    """The title of a listing, or None where the supplier gave none."""
    offer = listing.offer
    if offer.untitled:
        return None
    original = offer.source if offer.role == "near_duplicate" and offer.source else offer
    text = _worded(original, seed)
    if offer.role == "near_duplicate" and offer.serial % 2:
        text += " " + SELLING[offer.supplier.language][0]
    if listing.title_edits:
        text += f" ({EDITS[(listing.title_edits - 1) % len(EDITS)]})"
    return text


def size_words(offer: Offer) -> str:
    """The size in the supplier's units, such as `330 ml`, `11 oz`, `EU 40` or `size M`."""
    unit, size = KINDS[offer.style.kind].unit, offer.size
    match unit, offer.supplier.imperial:
        case "fit", _:
            return f"size {CLOTHING[size]}"
        case "eu", imperial:
            return f"US {size - 31.5:g}" if imperial else f"EU {size}"
        case "ml", True:
            return f"{size / 29.57:.0f} oz"
        case "cm", True:
            return f"{size / 2.54:.0f} in"
    return f"{size}{unit}" if offer.supplier.quality % 2 else f"{size} {unit}"


def _worded(offer: Offer, seed: int) -> str:
    rng = stream(seed, "title", offer.serial)
    style, by = offer.style, offer.supplier

    def say(sort: str, name: str) -> str:
        return str(rng.choice(synonyms(sort, name, by.language)))

    parts = {
        "noun": say("kind", style.kind),
        "pattern": say("pattern", style.pattern),
        "material": say("material", style.material),
        "colour": say("colour", offer.colour),
        "size": size_words(offer),
        "feature": style.feature if by.language == "en" else "",
        "collection": style.collection,
        "selling": str(rng.choice(SELLING[by.language])),
    }
    # Nobody fills in every field every time.
    said = [parts[slot] for slot in by.order if parts[slot] and (slot == "noun" or rng.random() < 0.92)]
    return _lettered(by.separator.join(said), by)


def _lettered(text: str, by: Supplier) -> str:
    match by.letters:
        case "upper":
            return text.upper()
        case "capitalised":
            return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))
    return text[:1].upper() + text[1:]
