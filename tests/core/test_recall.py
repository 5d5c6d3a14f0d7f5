"""recall@k and same-style R@1 on numbers that can be checked by eye."""

import doctest

import numpy as np

import samestyle.evaluation.recall as recall_module
import samestyle.evaluation.retrieval as retrieval_module
from samestyle.evaluation.recall import Proportion, perturb, proportion, recalls, smallest_ef
from samestyle.evaluation.retrieval import style_at_1


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(recall_module).failed == doctest.testmod(retrieval_module).failed == 0
    assert doctest.testmod(recall_module).attempted > 0


def test_an_answer_as_close_as_the_true_kth_is_right_whatever_its_id():
    exact = np.array([[0.9, 0.8, 0.7], [0.9, 0.9, 0.9]])
    found = np.array([[0.9, 0.7, 0.6], [0.9, 0.9, 0.9]])
    np.testing.assert_allclose(recalls(found, exact), [2 / 3, 1.0])


def test_fewer_vectors_than_k_count_against_what_there_is():
    exact = np.array([[0.9, 0.8, -np.inf]])
    np.testing.assert_allclose(recalls(np.array([[0.9, 0.8, -np.inf]]), exact), [1.0])
    np.testing.assert_allclose(recalls(np.array([[0.9, -np.inf, -np.inf]]), exact), [0.5])


def test_perturbed_queries_are_unit_vectors_at_the_given_distance():
    vectors = np.eye(8, dtype=np.float32)
    moved = perturb(vectors, 0.2, seed=1)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-6)
    cosines = (moved * vectors).sum(axis=1)
    assert (cosines < 0.9999).all()
    assert (cosines > 0.97).all()
    np.testing.assert_array_equal(moved, perturb(vectors, 0.2, seed=1))


def test_an_interval_is_never_certain():
    assert proportion([1.0] * 20).low < 0.9
    assert proportion([]) == Proportion(0.0, 0.0, 1.0, 0)
    p = proportion([0.0, 1.0] * 50)
    assert (round(p.value, 3), round(p.low, 3), round(p.high, 3)) == (0.5, 0.404, 0.596)


def test_the_smallest_ef_that_passes_is_chosen():
    curve = {10: proportion([0.8] * 100), 40: proportion([1.0] * 500), 80: proportion([1.0] * 500)}
    assert smallest_ef(curve, 0.95) == 40
    assert smallest_ef(curve, 0.999) == 80


def test_ties_for_the_first_place_share_it():
    assert style_at_1([0.9, 0.8], [True, False]) == 1.0
    assert style_at_1([0.9, 0.9, 0.9, 0.1], [True, False, False, True]) == 1 / 3
    assert style_at_1([], []) == 0.0
