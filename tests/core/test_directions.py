"""Fair ranks against matrices that can be checked by eye, and against trec_eval."""

import doctest

import numpy as np
import pytest
import pytrec_eval

from samestyle.errors import UsageError
from samestyle.evaluation import bootstrap, directions, truth
from samestyle.evaluation.bootstrap import difference, interval
from samestyle.evaluation.directions import DIRECTIONS, KS, measure, ranks
from samestyle.evaluation.partial import PER_QUERY, Counts, Question, best_of_parts, count_parts, ranks_of_parts
from samestyle.evaluation.truth import ANNOTATED, BETWEEN, WITHIN, Nodes, Products, search

# Cosines of the one query (1, 0, 0, ...) with each of four pool rows: the first coordinate of a unit vector.
POOL = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
QUERY = np.array([[1.0, 0.0]])


def flags(*values):
    return np.array([values], bool)


@pytest.mark.parametrize("module", [directions, bootstrap, truth], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("relevant", "excluded", "rank"),
    [
        ((0, 0, 1, 0), (0, 0, 0, 0), 3),
        ((0, 0, 1, 1), (0, 0, 0, 0), 3),  # the first right one counts
        ((0, 0, 1, 0), (1, 0, 0, 0), 2),  # the query's own row takes no part
        ((1, 0, 1, 0), (1, 0, 0, 0), 2),  # nor where it would be right
        ((1, 0, 0, 0), (0, 0, 0, 0), 1),
    ],
)
def test_the_rank_of_the_first_right_row(relevant, excluded, rank):
    found = ranks(QUERY, POOL, flags(*relevant), flags(*excluded))
    assert found.rows.tolist() == [0]
    assert found.reciprocal[0] == pytest.approx(1 / rank)
    assert {k: hit[0] for k, hit in found.hits.items()} == {k: float(rank <= k) for k in KS}


def test_ties_are_the_mean_over_all_orders():
    pool = np.repeat([[1.0, 0.0], [0.8, 0.6]], [4, 3], axis=0)
    # Behind four others, one right and two wrong tie: it is the 5th, 6th or 7th, each in a third of the orders.
    found = ranks(QUERY, pool, flags(0, 0, 0, 0, 0, 1, 0), flags(*[0] * 7))
    assert found.reciprocal[0] == pytest.approx((1 / 5 + 1 / 6 + 1 / 7) / 3)
    assert [found.hits[k][0] for k in (1, 5, 10, 20)] == pytest.approx([0, 1 / 3, 1, 1])
    # Two right and one wrong: first unless the wrong one is, in 1 of 3 orders.
    found = ranks(QUERY, pool[:3], flags(1, 1, 0), flags(0, 0, 0))
    assert found.reciprocal[0] == pytest.approx(2 / 3 + 1 / 3 * 1 / 2)
    # A pool of equal vectors is a lottery, however it is ordered.
    for right in range(5):
        found = ranks(QUERY, np.repeat(QUERY, 5, axis=0), np.eye(5, dtype=bool)[[right]], flags(*[0] * 5))
        assert found.hits[1][0] == pytest.approx(1 / 5)


def test_what_has_no_vector_or_no_answer_is_left_out():
    queries = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    pool = np.array([[0.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    relevant = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 0]], bool)  # the last query's answer has no vector
    found = ranks(queries, pool, relevant, np.zeros((3, 3), bool))
    assert found.rows.tolist() == [0]
    assert found.reciprocal.tolist() == [1 / 2]
    empty = ranks(queries, pool, np.zeros((3, 3), bool), np.zeros((3, 3), bool))
    assert len(empty.rows) == 0
    assert len(empty.reciprocal) == 0


def test_each_direction_searches_its_views():
    views = {"image": QUERY, "text": np.array([[0.0, 1.0]]), "fused": QUERY}
    pool = {"image": POOL[[0, 3]], "text": POOL[[3, 0]], "fused": np.zeros((2, 2))}
    found = measure(views, pool, flags(1, 0), flags(0, 0))
    assert list(found) == list(DIRECTIONS)
    firsts = {d: one.ranks.hits[1].tolist() for d, one in found.items()}
    assert (firsts["i-i"], firsts["i-t"], firsts["t-t"], firsts["t-i"], firsts["m-m"]) == ([1], [0], [1], [0], [])
    assert found["i-i"].aggregates == dict.fromkeys(["mrr", *(f"recall@{k}" for k in KS)], 1.0) | {
        "queries": 1,
        "pool": 2,
    }
    assert found["m-m"].aggregates["queries"] == 0
    assert np.isnan(found["m-m"].aggregates["mrr"])


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="unknown direction x-i: choose from i-i"):
        measure({}, {}, flags(1), flags(0), ["x-i"])
    with pytest.raises(UsageError, match=r"need relevant and excluded of \(1, 4\), found \(1, 3\)"):
        ranks(QUERY, POOL, flags(1, 0, 0), flags(0, 0, 0))


def random_case(queries=600, pool=90, dim=8, seed=1):
    """More queries than a block holds; with excluded rows, and some queries without an answer."""
    random = np.random.default_rng(seed)
    made = [random.standard_normal((rows, dim)) for rows in (queries, pool)]
    vectors = [(part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in made]
    return *vectors, random.random((queries, pool)) < 0.03, random.random((queries, pool)) < 0.1


def test_equal_to_trec_eval():
    queries, pool, relevant, excluded = random_case()
    run = {
        str(q): {str(p): float(queries[q] @ pool[p]) for p in range(len(pool)) if not excluded[q, p]}
        for q in range(len(queries))
    }
    truth = {
        str(q): {str(p): int(relevant[q, p]) for p in range(len(pool))}
        for q in range(len(queries))
        if (relevant & ~excluded)[q].any()
    }
    judged = pytrec_eval.RelevanceEvaluator(truth, {"recip_rank", "success.1,5,10,20"}).evaluate(run)
    found = ranks(queries, pool, relevant, excluded)
    assert 500 < len(found.rows) < 600
    assert found.rows.tolist() == sorted(map(int, judged))
    theirs = [judged[str(row)] for row in found.rows]
    assert found.reciprocal == pytest.approx([one["recip_rank"] for one in theirs])
    for k in KS:
        assert found.hits[k].tolist() == [one[f"success_{k}"] for one in theirs]


def products(names, labels, photos, titles, dim=4, seed=3):
    """Vectors follow what is shown: equal photos and titles have equal vectors."""

    def vectors(keys):
        known = {
            key: np.random.default_rng([seed, n]).standard_normal(dim) for n, key in enumerate(dict.fromkeys(keys))
        }
        rows = np.array([np.zeros(dim) if key is None else known[key] for key in keys])
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    image, text = vectors(photos), vectors(titles)
    fused = image + text
    views = {"image": image, "text": text, "fused": fused / np.linalg.norm(fused, axis=1, keepdims=True)}
    return Products(names, labels, photos, titles, {view: rows.astype(np.float32) for view, rows in views.items()})


# Two offers of a mug have one photo, two others one title; the bowl has no photo.
SHOP = products(
    ["mug 1", "mug 2", "mug 3", "mug 4", "bowl"],
    ["mug", "mug", "mug", "mug", "bowl"],
    ["p1", "p1", "p2", "p3", None],
    ["owl mug", "mug with owl", "owl mug", "cup", "bowl"],
)


@pytest.mark.parametrize(
    ("direction", "nodes", "excluded", "relevant"),
    [
        # mug 1 shows photo p1 and "owl mug"; nodes in order of their first product
        ("i-i", 3, [1, 0, 0], [1, 1, 1]),  # p1 (mug 1 and 2) is a copy
        ("t-t", 4, [1, 0, 0, 0], [1, 1, 1, 0]),  # "owl mug" (mug 1 and 3) is a copy
        ("m-m", 5, [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]),  # only both together are
        ("i-m", 5, [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]),
        ("t-m", 5, [1, 0, 1, 0, 0], [1, 1, 1, 1, 0]),
        ("i-t", 4, [0, 0, 0, 0], [1, 1, 1, 0]),  # its own title is a right answer
        ("t-i", 3, [0, 0, 0], [1, 1, 1]),
    ],
)
def test_copies_take_no_part_and_what_shows_the_same_is_one_node(direction, nodes, excluded, relevant):
    queries, pool = SHOP.queries(), SHOP.nodes(direction[2])
    right, out = truth.truth(queries, pool, direction, WITHIN)
    assert len(pool) == nodes
    assert out[0].astype(int).tolist() == excluded
    assert right[0].astype(int).tolist() == relevant


def test_between_different_hands_equal_titles_are_answers_and_equal_photos_are_not():
    queries = SHOP.queries()
    assert not truth.truth(queries, SHOP.nodes("t"), "t-t", BETWEEN)[1].any()
    assert truth.truth(queries, SHOP.nodes("i"), "i-i", BETWEEN)[1][0].tolist() == [True, False, False]
    assert not truth.truth(queries, SHOP.nodes("i"), "i-i", ANNOTATED)[1].any()
    # Two bowls without photos have no photo in common.
    assert not truth.truth(queries, SHOP.nodes("m"), "m-m", BETWEEN)[1][4].any()


def test_of_labelled_pairs_the_own_product_is_left_out_but_for_its_other_side():
    queries = SHOP.take(np.array([0])).queries()
    asked = truth.Queries(queries.ids, [("mug 4",)], ["mug 1"], queries.photos, queries.titles, queries.views)
    named = Products(SHOP.ids, SHOP.ids, SHOP.photos, SHOP.titles, SHOP.views)
    right, out = truth.truth(asked, named.nodes("m"), "m-m", ANNOTATED)
    assert (right[0].tolist(), out[0].tolist()) == ([0, 0, 0, 1, 0], [1, 0, 0, 0, 0])
    right, out = truth.truth(asked, named.nodes("t"), "i-t", ANNOTATED)
    assert (right[0].tolist(), out.any()) == ([1, 0, 1, 0], False)


@pytest.mark.parametrize("copies", [WITHIN, BETWEEN, ANNOTATED])
def test_a_pool_in_parts_gives_the_ranks_of_the_whole(copies):
    random = np.random.default_rng(5)
    names = [f"item {n}" for n in range(80)]
    photos = [None if n % 9 == 0 else f"p{random.integers(60)}" for n in range(80)]
    shop = products(names, [f"style {n % 11}" for n in range(80)], photos, [f"t{random.integers(40)}" for _ in names])
    queries = shop.queries()
    whole = search(queries, shop, copies=copies)
    question = Question(queries, copies)

    def parts():
        for letter in "itm":
            nodes = shop.nodes(letter)
            for rows in np.array_split(np.arange(len(nodes)), 4):
                kept = [[values[row] for row in rows] for values in (nodes.labels, nodes.photos, nodes.titles)]
                yield [(letter, Nodes(*kept, nodes.vectors[rows]))]

    best = {d: np.max([best_of_parts(question, part)[d] for part in parts()], axis=0) for d in DIRECTIONS}
    counted = [count_parts(question, part, best) for part in parts()]
    for direction in DIRECTIONS:
        summed = Counts(*(sum(getattr(part[direction], name) for part in counted) for name in PER_QUERY))
        found = ranks_of_parts(best[direction], summed)
        expected = whole[direction].ranks
        assert found.rows.tolist() == expected.rows.tolist()
        assert found.reciprocal.tolist() == expected.reciprocal.tolist()
        assert {k: v.tolist() for k, v in found.hits.items()} == {k: v.tolist() for k, v in expected.hits.items()}
    assert len(whole["m-m"].ranks.rows) > 70


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    found = [interval(random.random(200) < 0.3, seed, 300) for seed in range(200)]
    assert 180 <= sum(one.low <= 0.3 <= one.high for one in found) <= 199
    assert interval(np.array([0.0, 1.0, 1.0]), 7) == interval(np.array([0.0, 1.0, 1.0]), 7)
    assert np.isnan(interval(np.zeros(0)).mean)


def test_a_paired_difference_sees_what_two_intervals_hide():
    first = np.random.default_rng(0).random(300)
    second = first + 0.01
    one = difference(first, second)
    assert one.significant
    assert (one.low, one.mean, one.high) == pytest.approx((0.01, 0.01, 0.01))
    assert interval(first).high > interval(second).low
    assert not difference(first, first[::-1]).significant
    with pytest.raises(UsageError, match="300 and 299 queries cannot be paired"):
        difference(first, second[:-1])
