"""Connected components on graphs that can be drawn on paper, and on random ones against a union-find."""

import random
from itertools import pairwise

import pytest

from samestyle.tables.components import Scratch, connected_components, large_star, small_star


@pytest.fixture
def scratch(spark, tmp_path):
    with Scratch(spark, tmp_path / "scratch") as scratch:
        yield scratch


def components(spark, scratch, edges) -> dict[int, int]:
    found = connected_components(spark.createDataFrame(edges, "a long, b long"), scratch).collect()
    assert len(found) == len({row["node"] for row in found})
    return {row["node"]: row["component"] for row in found}


def united(edges) -> dict[int, int]:
    """The same by a union-find: node -> least node of its component."""
    parent = {node: node for edge in edges for node in edge}

    def root(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    for a, b in edges:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {node: root(node) for node in parent}


def links(frame) -> set[tuple[int, int]]:
    return {tuple(row) for row in frame.collect()}


def test_the_large_star_moves_larger_neighbours_to_the_least(spark):
    """1 - 2 - 3 - 4: 2 sees 1, so 3 goes to 1; 3 sees 2, so 4 goes to 2."""
    chain = spark.createDataFrame([(2, 1), (3, 2), (4, 3)], "node long, other long")
    assert links(large_star(chain)) == {(2, 1), (3, 1), (4, 2)}


def test_the_small_star_moves_smaller_neighbours_to_the_least(spark):
    """5 sees 1 and 3 below it: both it and 3 go to 1."""
    fork = spark.createDataFrame([(5, 1), (5, 3), (9, 8)], "node long, other long")
    assert links(small_star(fork)) == {(5, 1), (3, 1), (9, 8)}


def test_two_triangles_a_bridge_and_a_loop(spark, scratch):
    edges = [(1, 2), (2, 3), (3, 1), (12, 11), (11, 13), (13, 11), (-7, 20), (21, 22), (22, 20), (30, 30)]
    expected = dict.fromkeys((1, 2, 3), 1) | dict.fromkeys((11, 12, 13), 11) | dict.fromkeys((-7, 20, 21, 22), -7)
    assert components(spark, scratch, edges) == expected | {30: 30}


def test_no_edges_are_no_components(spark, scratch):
    assert components(spark, scratch, []) == {}


def test_a_long_chain_takes_few_rounds_and_random_graphs_agree_with_a_union_find(spark, scratch):
    """A chain of 1,000 nodes in random order, beside two random graphs of about as many nodes as edges."""
    draw = random.Random(3)
    chain = [draw.randrange(2**62, 2**63) for _ in range(1000)]
    edges = list(pairwise(chain))
    for first in (0, 1000):
        edges += [(first + draw.randrange(200), first + draw.randrange(200)) for _ in range(110)]
    assert components(spark, scratch, edges) == united(edges)
    assert scratch.kept <= 12


def test_the_scratch_folder_is_gone_in_the_end(spark, tmp_path):
    with Scratch(spark, tmp_path / "scratch") as scratch:
        assert scratch.keep(spark.range(3)).count() == 3
    assert not (tmp_path / "scratch").exists()
