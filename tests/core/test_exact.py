import numpy as np
import pytest

from samestyle.index import exact
from samestyle.index.exact import exact_search, exact_search_blocks


def naive(vectors, queries, k):
    """Sort everything by (score down, label up)."""
    scores = queries @ vectors.T
    labels = np.stack([np.lexsort((np.arange(len(vectors)), -row))[:k] for row in scores])
    return labels, np.take_along_axis(scores, labels, 1)


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
@pytest.mark.parametrize("k", [1, 10, 50, 80])
def test_equals_sorting_everything_whatever_the_blocks(monkeypatch, block, k):
    monkeypatch.setattr(exact, "BLOCK", block)
    rng = np.random.default_rng(3)
    # whole numbers: sums are exact, and scores tie often
    vectors = rng.integers(-2, 3, size=(50, 3)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(9, 3)).astype(np.float32)
    labels, scores = exact_search(vectors, queries, k)
    expected_labels, expected_scores = naive(vectors, queries, k)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(scores, expected_scores)
    assert labels.dtype == np.int64
    assert scores.dtype == np.float32


def test_of_equal_vectors_the_smaller_label_comes_first():
    labels, scores = exact_search(np.ones((5, 2), np.float32), np.ones((1, 2), np.float32), 3)
    assert labels.tolist() == [[0, 1, 2]]
    assert scores.tolist() == [[2, 2, 2]]


def test_labels_are_those_of_the_blocks():
    blocks = [(np.array([4, 9]), np.array([[1, 0], [0, 1]])), (np.array([12]), np.array([[2, 0]]))]
    labels, _ = exact_search_blocks(blocks, np.array([[1, 0]]), 2)
    assert labels.tolist() == [[12, 4]]


def test_nothing_to_search_gives_nothing():
    labels, scores = exact_search(np.empty((0, 4), np.float32), np.ones((3, 4), np.float32), 5)
    assert labels.shape == scores.shape == (3, 0)
