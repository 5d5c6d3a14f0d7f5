"""The text that the encoder sees for a product."""

import re
import unicodedata

_ROOM = 16  # characters that may become one
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


def normalise_title(title: str | None, max_chars: int = 512) -> str | None:
    """Return `title` as the encoder sees it, or None where nothing is left of it.

    NFC; each run of white space and control characters is one space; a lone surrogate (which UTF-8, and
    so Arrow and Parquet, cannot hold) is U+FFFD; trimmed at both ends and cut to `max_chars` characters.
    Normalising twice changes nothing. Only the first 16 * `max_chars` characters are looked at.
    """
    if title is None:
        return None
    whole = title.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    # Putting a run of accents in order takes time with its square: minutes, for a title of a megabyte.
    start = _BLANK.sub(" ", whole).lstrip()[: _ROOM * max_chars]
    text = unicodedata.normalize("NFC", start).strip()
    return text[:max_chars].rstrip() or None
