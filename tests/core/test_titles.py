import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samestyle.catalogue.titles import normalise_title


@pytest.mark.parametrize(
    ("title", "seen"),
    [
        (None, None),
        ("", None),
        (" \t\r\n\x00\u2003", None),
        ("  Blue   mug\n 300 ml ", "Blue mug 300 ml"),
        ("Blue\x00mug\x1b\x85tea", "Blue mug tea"),
        ("Cafe\u0301", "Café"),
        ("ＡＢ ²", "ＡＢ ²"),  # NFC and not NFKC: a supplier's characters keep their meaning
        ("mug \ud83d end", "mug \ufffd end"),
        ("\ud83d\ude00", "😀"),
        ("陶瓷杯 👩‍🍳", "陶瓷杯 👩‍🍳"),
    ],
)
def test_title_as_the_encoder_sees_it(title, seen):
    assert normalise_title(title) == seen


def test_cut_to_max_chars_leaves_no_space_at_the_end():
    assert normalise_title("red mug", max_chars=4) == "red"
    assert normalise_title("x" * 600) == "x" * 512


@given(st.text(st.characters(), max_size=60) | st.text("a \t\x00\ud800\udc00e\u0301", max_size=20))
def test_normalising_twice_changes_nothing(title):
    once = normalise_title(title)
    assert normalise_title(once) == once
    if once is not None:
        assert once.encode("utf-8")
        assert unicodedata.is_normalized("NFC", once)
        assert once == once.strip()
