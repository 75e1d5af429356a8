"""Random numbers: their seed, their range and their share of each value; not which ones."""

from __future__ import annotations

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine

pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb

SHAPE = np.int32([40, 50])
DRAWS = {
    "uniform": lambda **seed: mb.random_uniform(shape=SHAPE, low=-1.0, high=3.0, **seed),
    "normal": lambda **seed: mb.random_normal(shape=SHAPE, mean=1.0, stddev=2.0, **seed),
    "bernoulli": lambda **seed: mb.random_bernoulli(shape=SHAPE, prob=0.25, **seed),
    "categorical": lambda **seed: mb.random_categorical(
        x=np.zeros((40, 5), np.float32), size=50, **seed
    ),
}
MOMENTS = {
    "uniform": (1, 4 / 12**0.5),
    "normal": (1, 2),
    "bernoulli": (0.25, 0.1875**0.5),
    "categorical": (2, 2**0.5),
}


def draw(save, name, **seed):
    x = np.zeros((1,), np.float32)
    package = save(lambda x: (DRAWS[name](**seed), mb.relu(x=x)), {"x": x})
    engine = MilEngine(package, precision="fp32")
    return [engine.run({"x": x})["result_0"] for _ in range(2)]


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_gives_the_same_numbers_at_every_call(name, save):
    first, second = draw(save, name, seed=3)
    np.testing.assert_array_equal(first, second)
    assert (draw(save, name, seed=4)[0] != first).any()


@pytest.mark.parametrize("name", DRAWS)
def test_without_a_seed_numbers_differ(name, save):
    first, second = draw(save, name)
    assert (first != second).any()


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_have_the_mean_and_deviation_of_their_distribution(name, save):
    values, (mean, deviation) = draw(save, name, seed=5)[0], MOMENTS[name]
    assert values.shape == (40, 50)
    error = deviation / values.size**0.5  # of the mean
    assert abs(values.mean() - mean) < 4 * error
    assert abs(values.std() - deviation) < 4 * error


def test_categories_are_drawn_by_their_probabilities(save):
    x = np.float32([[0, 1, 3], [2, 0, 2]])

    def build(x):
        logits = mb.log(x=x, epsilon=np.float32(1e-30))
        return (
            mb.random_categorical(x=x, mode="probs", size=4000, seed=1),
            mb.random_categorical(x=logits, mode="logits", size=4000, seed=2),
        )

    results = MilEngine(save(build, {"x": x}), precision="fp32").run({"x": x})
    for drawn in results.values():
        shares = [np.bincount(row.astype(int), minlength=3) / 4000 for row in drawn]
        np.testing.assert_allclose(shares, x / 4, atol=0.035)
