"""Mixed bits under a budget, against all possible choices."""

import itertools

import numpy as np
import pytest

from export.quant.budget import Option, choose

BITS = (3, 4, 6, 8)


def options(seed, count=5):
    """Losses that fall by about four with each bit, of matrices of several sizes and weights."""
    rng = np.random.default_rng(seed)
    made = {}
    for n in range(count):
        weights, scale = int(rng.integers(1, 9)) * 64, float(np.exp(rng.normal() * 2))
        noise = np.exp(rng.normal(size=len(BITS)) * 0.3)
        made[f"w{n}"] = [
            Option(bits, weights * bits // 8, scale * 4.0**-bits * float(noise[k]))
            for k, bits in enumerate(BITS)
        ]
    return made


def best(given, budget):
    losses = [
        sum(option.loss for option in choice)
        for choice in itertools.product(*given.values())
        if sum(option.size for option in choice) <= budget
    ]
    return min(losses)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_it_stays_within_the_budget_and_the_gap_is_true(seed, share):
    given = options(seed)
    least, most = (sum(f(o.size for o in some) for some in given.values()) for f in (min, max))
    budget = int(least + share * (most - least))
    choice = choose(given, budget)
    assert set(choice.chosen) == set(given) and choice.size <= budget
    optimum = best(given, budget)
    assert optimum <= choice.loss * (1 + 1e-12)
    assert choice.loss * (1 - choice.gap) <= optimum * (1 + 1e-9), "the bound is below the optimum"


def test_with_many_matrices_the_gap_is_small():
    given = options(0, count=200)
    least, most = (sum(f(o.size for o in some) for some in given.values()) for f in (min, max))
    for share in (0.1, 0.3, 0.6):
        assert choose(given, int(least + share * (most - least))).gap < 0.01


def test_alike_matrices_are_stored_alike():
    given = {f"w{n}": [Option(b, 64 * b, 4.0**-b) for b in BITS] for n in range(4)}
    chosen = choose(given, 4 * 64 * 4).chosen
    assert {option.number for option in chosen.values()} == {4}
