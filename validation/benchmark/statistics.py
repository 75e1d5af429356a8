"""Distances of texts, and whether two models differ on the same items by more than chance."""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import numpy as np

Array = np.ndarray
_RESAMPLES = 10_000
_SEED = 2026


class Interval(NamedTuple):
    """Ends of a 95 % confidence interval."""

    low: float
    high: float


def edit_distance(given: str, expected: str) -> int:
    """Least number of characters inserted, removed or replaced that make one text the other
    (Levenshtein, 1966)."""
    row = list(range(len(expected) + 1))
    for count, character in enumerate(given, 1):
        diagonal, row[0] = row[0], count
        for n, wanted in enumerate(expected, 1):
            replaced = diagonal + (character != wanted)
            diagonal, row[n] = row[n], min(row[n] + 1, row[n - 1] + 1, replaced)
    return row[-1]


def ratio(values: Array, weights: Array) -> float:
    """Sum of values per sum of weights, both (n,)."""
    return float(values.sum() / weights.sum())


def bootstrap(values: Array, weights: Array, groups: Array) -> Interval:
    """Interval of `ratio`, by drawing whole groups again (Efron, 1979): items (n,) of one group,
    which `groups` (n,) numbers, depend on each other. NaN for fewer than two groups, and if all are
    alike: drawing them again then says nothing of others."""
    above, below = _by_group(values, groups), _by_group(weights, groups)
    if np.ptp(above / below) == 0:
        return Interval(float("nan"), float("nan"))
    chosen = np.random.default_rng(_SEED).integers(len(above), size=(_RESAMPLES, len(above)))
    figures = above[chosen].sum(1) / below[chosen].sum(1)
    low, high = np.quantile(figures, (0.025, 0.975))
    return Interval(float(low), float(high))


def paired_bootstrap(values: Array, others: Array, weights: Array, groups: Array) -> Interval:
    """Interval of the difference of two ratios on the same items, as for `bootstrap`."""
    return bootstrap(values - others, weights, groups)


def _by_group(values: Array, groups: Array) -> Array:
    _, places = np.unique(groups, return_inverse=True)
    return np.bincount(places, values.astype(np.float64))


def mcnemar(first: Array, second: Array) -> float:
    """Two-sided p-value of McNemar's exact test (1947) for right answers (n,) of two models to the
    same questions: how likely it is that chance deals out those that only one of them answers as
    unevenly."""
    only = int((first & ~second).sum()), int((second & ~first).sum())
    total = sum(only)
    tail = sum(comb(total, k) for k in range(min(only) + 1))
    return float(min(1.0, 2 * tail / 2**total))
