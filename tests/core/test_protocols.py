"""Who asks whom on the open catalogues; vectors are drawn at random, so that chance is what must come out."""

import numpy as np
import pytest

from samestyle.errors import UsageError
from samestyle.evaluation.protocols import evaluate, evaluate_vectors, protocols, read_part, title_sets

BY_NAME = {protocol.name: protocol for protocol in protocols()}
# The numbers of queries with an answer, and of different photos or titles in the pool.
SIZES = {
    "luma, style": {"i-i": (262, 273), "i-t": (273, 172)},
    "grocery, store test -> train": {"i-i": (320, 320)},
    "grocery, store -> web": {"i-i": (320, 32), "i-t": (320, 32)},
    "emoji, google -> fluent3d": {"i-i": (743, 742), "t-t": (743, 743), "m-m": (743, 743)},
}


def random_views(rows, dim=16):
    vectors = np.random.default_rng(0).standard_normal((3, rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return dict(zip(("image", "text", "fused"), vectors, strict=True))


@pytest.mark.parametrize("name", SIZES)
def test_queries_and_pools_of_the_groups_that_are_held_out(data_folder, name):
    protocol = BY_NAME[name]
    part = read_part(data_folder, protocol)
    measured = evaluate_vectors(protocol, part, random_views(len(part.ids)))
    sizes = {d: (m.aggregates["queries"], m.aggregates["pool"]) for d, m in measured.items()}
    assert {direction: sizes[direction] for direction in SIZES[name]} == SIZES[name]
    assert set(measured) == set(protocol.directions)


def test_luma_titles_are_never_searched_by_title():
    assert {d for d in BY_NAME["luma, style"].directions if "i" not in d} == set()


def test_random_vectors_score_what_chance_gives(data_folder):
    protocol = BY_NAME["grocery, store -> web"]
    part = read_part(data_folder, protocol)
    measured = evaluate_vectors(protocol, part, random_views(len(part.ids)))
    assert measured["i-t"].aggregates["recall@10"] == pytest.approx(10 / 32, abs=0.1)


def test_pairs_of_titles_and_the_ten_pairs(data_folder):
    """An encoder that knows titles by their letters finds equal ones, and the rest better than chance."""

    def letters(titles, images):
        counts = np.array([[title.count(chr(97 + n)) for n in range(26)] for title in titles], np.float32)
        vectors = counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)
        return dict.fromkeys(("image", "text", "fused"), vectors)

    found = dict(evaluate(letters, 32, data_folder, [p for p in protocols() if p.runs_only]))
    assert len(title_sets(data_folder)) == 7
    assert list(found)[1:] == [f"{name}, pairs of titles" for name in title_sets(data_folder)]
    pairs = found["abt-buy, pairs of titles"]["t-t"].aggregates
    assert (pairs["queries"], pairs["pool"]) == (206, 694)
    assert 0.2 < pairs["recall@1"] < 1
    assert found["esspr, the ten published pairs (runs, not good)"]["t-t"].aggregates["queries"] == 10


def test_a_folder_without_the_sets_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no .*magento_luma.parquet: --data must name the folder"):
        list(evaluate(lambda titles, images: {}, 32, tmp_path))
