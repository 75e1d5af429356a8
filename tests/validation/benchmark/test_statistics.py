"""Distances and tests of significance: known values, and what intervals promise."""

import math

import numpy as np
import pytest

from validation.benchmark.statistics import bootstrap, edit_distance, mcnemar, paired_bootstrap


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("kitten", "sitting", 3), ("Saturday", "Sunday", 3), ("", "abc", 3), ("same", "same", 0)],
)
def test_edit_distances_are_the_published_ones(first, second, distance):
    assert edit_distance(first, second) == edit_distance(second, first) == distance


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    # Two-sided binomial tails of a fair coin: 2 / 2^6, 2 · (1 + 10 + 45) / 2^10, 1, 1.
    [(6, 0, 2 / 64), (8, 2, 112 / 1024), (3, 3, 1), (0, 0, 1)],
)
def test_mcnemar_is_the_tail_of_a_fair_coin(only_first, only_second, p):
    both = [True] * 5 + [False] * 4
    first = np.array(both + [True] * only_first + [False] * only_second)
    second = np.array(both + [False] * only_first + [True] * only_second)
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(p)


def test_intervals_hold_the_true_ratio_as_often_as_they_promise():
    """Of items in groups of four that share their luck."""
    rng = np.random.default_rng(0)
    groups, hits = np.repeat(np.arange(40), 4), 0
    for _ in range(60):
        luck = np.repeat(rng.normal(size=40), 4)
        weights = rng.uniform(1, 3, size=160)
        values = weights * (2 + luck + rng.normal(size=160) * 0.1)
        low, high = bootstrap(values, weights, groups)
        hits += low < 2 < high
    assert 0.85 < hits / 60 <= 1
    alone = bootstrap(values, weights, np.arange(160))
    assert alone.high - alone.low < 0.7 * (high - low)  # as if they were independent


def test_a_difference_is_surer_than_two_figures():
    rng = np.random.default_rng(1)
    shared, ones = rng.normal(size=50), np.ones(50)
    first, second = shared + 0.1, shared + rng.normal(size=50) * 0.01
    low, high = paired_bootstrap(first, second, ones, np.arange(50))
    assert 0.09 < low < high < 0.11


def test_items_that_are_all_alike_have_no_interval():
    assert math.isnan(bootstrap(np.ones(9), np.ones(9), np.arange(9)).low)
    assert math.isnan(bootstrap(np.array([1.0, 0]), np.ones(2), np.zeros(2)).low)
