"""Rounding with error feedback, against a reference that follows the formula column by column."""

from dataclasses import replace

import numpy as np
import pytest

import export.quant.feedback as feedback_module
from export.quant.feedback import PLAIN, factorize, feedback_of, quantize_with_feedback
from export.quant.kmeans import palettize, weighted_tables
from export.quant.methods import FEEDBACK, Values, quantize
from export.quant.recipe import QuantSpec
from export.quant.statistics import WHOLE, Statistics
from mobile_runtime.errors import InputError

LUT = QuantSpec("lut", 4, 16, method=FEEDBACK)
BLOCKS = QuantSpec("blocks", 4, 32, method=FEEDBACK)
OFFSETS = QuantSpec("blocks", 4, 32, symmetric=False, method=FEEDBACK)
ROWS, COLUMNS, TOKENS = 64, 288, 4000


@pytest.fixture(scope="module")
def statistics():
    """Strongly correlated inputs of very different sizes."""
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(COLUMNS, COLUMNS)) * np.exp(rng.normal(size=COLUMNS))
    x = (rng.normal(size=(TOKENS, COLUMNS)) @ mix).astype(np.float32)
    halves = [half.T @ half / np.float32(len(half)) for half in (x[::2], x[1::2])]
    return Statistics((halves[0], halves[1]), (TOKENS // 2, TOKENS // 2))


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(2).standard_t(5, (ROWS, COLUMNS)).astype(np.float32)


def loss(values, weight, moments):
    """tr(E · M · Eᵀ) of the error E."""
    error = (values - weight.dequantize()).astype(np.float64)
    return np.einsum("rc,cd,rd->", error, moments.astype(np.float64), error)


def by_the_formula(values, moments, nearest):
    """Column by column, with the coefficients from an inverse: GPTQ's own way to compute them.

    `nearest(target, column)` gives the values of a column's levels that are nearest to the target.
    """
    damped = moments.astype(np.float64) + 0.01 * moments.diagonal().mean() * np.eye(len(moments))
    order = np.argsort(-damped.diagonal(), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T  # inverse = upperᵀ · upper
    targets, chosen = values.astype(np.float64)[:, order], np.empty(values.shape)
    for n, column in enumerate(order):
        chosen[:, column] = nearest(targets[:, n], column)
        error = (targets[:, n] - chosen[:, column]) / upper[n, n]
        targets[:, n:] -= error[:, None] * upper[n, n:]
    return chosen


def test_tables_follow_the_formula(values, statistics):
    """In float64 a few near ties fall to the other side, and all that follows them differs."""
    weight, shrinkage = quantize_with_feedback(values, LUT, statistics, name="w")
    assert shrinkage != PLAIN
    moments = statistics.shrunk(WHOLE, shrinkage)
    tables = weight.lut.astype(np.float64)[np.arange(ROWS) // 16]

    def nearest(target, column):
        found = np.abs(target[:, None] - tables).argmin(axis=1)
        return tables[np.arange(ROWS), found]

    expected = by_the_formula(values, moments, nearest)
    same = weight.dequantize() == expected.astype(np.float32)
    assert same.all(axis=1).mean() > 0.8, "whole rows agree"


def test_blocks_follow_the_formula(values, statistics):
    weight, shrinkage = quantize_with_feedback(values, BLOCKS, statistics, name="w")
    moments = statistics.shrunk(WHOLE, shrinkage)

    def nearest(target, column):
        scale = weight.scale[:, column // 32].astype(np.float64)
        return np.clip(np.rint(target / scale), -8, 7) * scale

    expected = by_the_formula(values, moments, nearest)
    same = np.isclose(weight.dequantize(), expected, rtol=1e-6)
    assert same.all(axis=1).mean() > 0.8


@pytest.mark.parametrize("spec", [LUT, BLOCKS, OFFSETS])
def test_errors_that_matter_become_smaller(values, statistics, spec):
    fed, _ = quantize_with_feedback(values, spec, statistics, name="w")
    plain = quantize(Values(values, "w", ROWS), QuantSpec(spec.form, 4, spec.group_size))
    moments = statistics.second_moments()
    assert fed.layout == spec.layout
    assert loss(values, fed, moments) < 0.6 * loss(values, plain, moments)


@pytest.mark.parametrize("spec", [LUT, BLOCKS])
def test_the_result_is_the_same_for_any_number_of_threads(values, statistics, spec):
    one, _ = quantize_with_feedback(values, spec, statistics, name="w", threads=1)
    three, _ = quantize_with_feedback(values, spec, statistics, name="w", threads=3)
    np.testing.assert_array_equal(one.dequantize(), three.dequantize())


def test_nothing_is_fed_back_if_the_held_out_half_says_so(values):
    """Correlations that one half has and the other has with the opposite sign only do harm."""
    signs = np.sign(np.random.default_rng(3).normal(size=COLUMNS))
    common = 0.999 * np.outer(signs, signs)
    half = (common + np.diag(1 - common.diagonal())).astype(np.float32)
    other = np.float32(COLUMNS) * np.eye(COLUMNS, dtype=np.float32) - np.float32(0.9) * half
    flipped = Statistics((half, other), (1, 1))
    weight, shrinkage = quantize_with_feedback(values, LUT, flipped, name="w")
    tables = weight.lut.astype(np.float32)[np.arange(ROWS) // 16]
    nearest = np.abs(values[..., None] - tables[:, None]).min(axis=-1)
    assert shrinkage == PLAIN
    np.testing.assert_array_equal(np.abs(values - weight.dequantize()), nearest)
    _, shrinkage = quantize_with_feedback(values, LUT, flipped, name="w", expected=0.03)
    assert shrinkage == PLAIN, "an expected one must do better as well"


@pytest.fixture(scope="module")
def outputs():
    """Strongly correlated gradients of very different sizes, in two panels."""
    rng = np.random.default_rng(8)
    found = []
    for rows in (40, 24):
        mix = rng.normal(size=(rows, rows)) * np.exp(rng.normal(size=rows))
        gradients = (rng.normal(size=(TOKENS, rows)) @ mix).astype(np.float32)
        found.append(gradients.T @ gradients / TOKENS)
    return tuple(found)


def damped_factor(moments):
    """The order of falling diagonal, and U, unit upper triangular with U · D · Uᵀ = moments."""
    damped = moments.astype(np.float64) + 0.01 * moments.diagonal().mean() * np.eye(len(moments))
    order = np.argsort(-damped.diagonal(), kind="stable")
    upper = np.linalg.cholesky(damped[np.ix_(order, order)][::-1, ::-1])[::-1, ::-1]
    return order, upper / upper.diagonal()


def value_by_value(values, moments, outputs, nearest):
    """Every value takes up what the formula says of all before it, in columns and in rows."""
    columns, across = damped_factor(moments)
    rows, down = damped_factor(outputs)
    errors = np.zeros(values.shape)
    for k, column in enumerate(columns):
        fed = errors[:, columns[:k]] @ across[:k, k]
        for i, row in enumerate(rows):
            above = (errors[rows[:i], column] + fed[rows[:i]]) @ down[:i, i]
            level = nearest(values[row, column] + fed[row] + above, row, column)
            errors[row, column] = values[row, column] - level
    return values - errors


@pytest.mark.parametrize("spec", [LUT, BLOCKS, OFFSETS])
def test_errors_are_fed_back_between_rows_by_the_formula(values, statistics, outputs, spec):
    known = replace(statistics, outputs=outputs)
    weight, shrinkage = quantize_with_feedback(values, spec, known, name="w")
    moments, first = statistics.shrunk(WHOLE, shrinkage), 0
    for panel in outputs:
        rows = slice(first, first + len(panel))

        def nearest(target, row, column, first=first):
            if spec.form == "lut":
                levels = weight.lut.astype(np.float64)[(first + row) // 16]
            else:
                at = first + row, column // 32
                offset = 0.0 if weight.offset is None else float(weight.offset[at])
                levels = np.arange(-8, 8) * float(weight.scale[at]) + offset
            return levels[np.abs(levels - target).argmin()]

        expected = value_by_value(values[rows].astype(np.float64), moments, panel, nearest)
        same = np.isclose(weight.dequantize()[rows], expected, rtol=1e-5)
        # One near tie that falls to the other side changes all values after it.
        assert same[:, damped_factor(moments)[0][:64]].mean() > 0.95
        first += len(panel)


@pytest.mark.parametrize("spec", [LUT, BLOCKS])
def test_the_loss_of_known_gradients_becomes_smaller(values, statistics, outputs, spec):
    moments = statistics.second_moments().astype(np.float64)

    def cost(known):
        weight, _ = quantize_with_feedback(values, spec, known, name="w")
        errors = (values - weight.dequantize()).astype(np.float64)
        panels = (errors[:40], errors[40:])
        pairs = zip(panels, outputs, strict=True)
        return sum(np.einsum("hi,hk,kl,il->", panel, e, moments, e) for e, panel in pairs)

    assert cost(replace(statistics, outputs=outputs)) < 0.5 * cost(statistics)


def test_rows_whose_gradients_are_independent_are_rounded_alone(values, statistics):
    alone, _ = quantize_with_feedback(values, LUT, statistics, name="w")
    diagonal = (np.diag(np.arange(1, ROWS + 1, dtype=np.float32)),)
    known, _ = quantize_with_feedback(
        values, LUT, replace(statistics, outputs=diagonal), name="w", threads=3
    )
    assert (alone.dequantize() == known.dequantize()).mean() > 0.99


def test_values_that_are_table_entries_stay(statistics):
    entries = np.linspace(-1, 1, 16).astype(np.float16).astype(np.float32)
    values = np.random.default_rng(4).choice(entries, (ROWS, COLUMNS))
    weight, _ = quantize_with_feedback(values, LUT, statistics, name="w")
    np.testing.assert_array_equal(weight.dequantize(), values)


def test_feedback_factors_the_damped_moments():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(50, 20)).astype(np.float32)
    moments = x.T @ x / 50
    feedback = feedback_of(moments)
    u = feedback.coefficients.astype(np.float64)
    np.testing.assert_array_equal(np.tril(u, -1), 0)
    np.testing.assert_allclose(u.diagonal(), 1, rtol=1e-6)
    damped = moments + 0.01 * moments.diagonal().mean() * np.eye(20)
    ordered = damped[np.ix_(feedback.order, feedback.order)]
    inner = np.linalg.solve(u, np.linalg.solve(u, ordered).T)  # diagonal: u · D · uᵀ = ordered
    assert np.abs(inner - np.diag(inner.diagonal())).max() < 1e-5


@pytest.mark.parametrize("size", [1, 200, 512, 1300])
def test_factors_are_those_of_numpy(size):
    x = np.random.default_rng(7).normal(size=(2 * size, size))
    moments = (x.T @ x / len(x)).astype(np.float32)
    expected = np.linalg.cholesky(moments.astype(np.float64)[::-1, ::-1])[::-1, ::-1]
    factorize(moments)
    np.testing.assert_allclose(moments, expected, atol=2e-5)


def test_equal_weights_give_the_tables_of_plain_palettization(values):
    tables = weighted_tables(values, np.full(COLUMNS, 3.0), bits=4, group_size=16, name="w")
    plain = palettize(values, bits=4, group_size=16, name="w")
    np.testing.assert_array_equal(tables, plain.lut)


def test_weighted_tables_are_the_best_ones():
    """All cuts of a few values, tried one by one."""
    rng = np.random.default_rng(6)
    values = rng.normal(size=(2, 4)).astype(np.float16)
    weights = rng.uniform(0.1, 5, 4)
    ordered = np.argsort(values.reshape(-1))
    v, w = values.reshape(-1)[ordered].astype(np.float64), np.tile(weights, 2)[ordered]

    def cost(begin, end):
        mean = np.average(v[begin:end], weights=w[begin:end])
        return (w[begin:end] * (v[begin:end] - mean) ** 2).sum(), mean

    best = min((cost(0, n)[0] + cost(n, 8)[0], n) for n in range(1, 8))[1]
    (table,) = weighted_tables(values, weights, bits=1, group_size=2, name="w")
    np.testing.assert_allclose(table, [cost(0, best)[1], cost(best, 8)[1]], rtol=1e-3)


def test_error_feedback_needs_statistics(values):
    with pytest.raises(InputError, match="needs a calibration; give --calibration"):
        quantize(Values(values, "w", ROWS), LUT)


def test_an_expected_shrinkage_is_the_only_one_that_is_tried(values, statistics, monkeypatch):
    tried = []

    def feedback(statistics, part, shrinkage, plain=feedback_module._feedback):
        tried.append(shrinkage)
        return plain(statistics, part, shrinkage)

    monkeypatch.setattr(feedback_module, "_feedback", feedback)
    _, shrinkage = quantize_with_feedback(values, LUT, statistics, name="w", expected=0.3)
    assert shrinkage == 0.3 and tried == [0.6, PLAIN, 0.3]
