"""Block quantization against float64 statements of what it promises."""

import ml_dtypes
import numpy as np
import pytest

from export.quant.blocks import quantize_blocks
from export.quant.recipe import QuantSpec
from mobile_runtime.bundle import InputError

TYPES = [ml_dtypes.bfloat16, np.float16, np.float32]
MATRICES = {
    "normal": lambda random: random.standard_normal((24, 512)) * 0.02,
    "heavy tails": lambda random: random.standard_t(4, (24, 512)) * 0.02,
    "uniform": lambda random: random.uniform(-1, 1, (24, 512)),
    "negative only": lambda random: -np.exp(random.normal(0, 1, (24, 512))),
    "outlier columns": lambda random: random.standard_normal((24, 512)) * _outliers(),
}


def _outliers():
    return np.where(np.arange(512) % 61 == 0, 30.0, 1.0)


def block(bits=4, size=32, symmetric=True):
    return QuantSpec(bits, size, "block", symmetric)


def blocks_of(matrix, size):
    return np.asarray(matrix, np.float64).reshape(-1, size)


def errors(matrix, weight, size):
    """Squared error of every block."""
    return np.square(blocks_of(weight.dequantize(), size) - blocks_of(matrix, size)).sum(1)


def rounded(blocks, scale, bits):
    """The blocks in whole steps of `scale`, one a block."""
    lowest, highest = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    return np.clip(np.rint(blocks / scale), lowest, highest)


def extreme_scale(blocks, bits):
    """The scale that maps the largest value of each block, of two the negative one, to the lowest
    integer."""
    largest, smallest = blocks.max(1, keepdims=True), blocks.min(1, keepdims=True)
    return np.where(largest > -smallest, largest, smallest) / -(2.0 ** (bits - 1))


def plain_errors(blocks, bits):
    scale = extreme_scale(blocks, bits)
    return np.square(rounded(blocks, scale, bits) * scale - blocks).sum(1)


def least_errors(blocks, bits):
    """Least squared error over a fine grid of scales of both signs, each replaced by the best one
    for the integers that it gives."""
    least = np.full(len(blocks), np.inf)
    for factor in [*np.linspace(0.4, 1.4, 301), *np.linspace(-1.4, -0.4, 301)]:
        q = rounded(blocks, factor * extreme_scale(blocks, bits), bits)
        best = (blocks * q).sum(1) / np.maximum((q * q).sum(1), 1)
        least = np.minimum(least, np.square(blocks - q * best[:, None]).sum(1))
    return least


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("bits", "size"), [(2, 16), (4, 32), (4, 128), (8, 32)])
@pytest.mark.parametrize("name", MATRICES)
def test_no_block_is_worse_than_plain_rounding(name, bits, size, dtype):
    matrix = MATRICES[name](np.random.default_rng(bits)).astype(dtype)
    weight = quantize_blocks(matrix, spec=block(bits, size), name="w")
    assert weight.zero_point is None and weight.scale.shape == (24, 512 // size)
    assert -(2 ** (bits - 1)) <= weight.q.min() and weight.q.max() < 2 ** (bits - 1)
    # 1e-5: the scale is a float32, and an error at eight bits is a 10⁵th of the weight.
    plain = plain_errors(blocks_of(matrix, size), bits)
    assert (errors(matrix, weight, size) <= plain * (1 + 1e-5)).all()


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("name", MATRICES)
def test_the_error_is_close_to_the_least(name, size):
    matrix = MATRICES[name](np.random.default_rng(7)).astype(np.float32)
    weight = quantize_blocks(matrix, spec=block(4, size), name="w")
    least = least_errors(blocks_of(matrix, size), 4).sum()
    assert errors(matrix, weight, size).sum() <= 1.005 * least


def grid(random, dtype, bits=4, scales=None):
    """(rows, columns) whose blocks of 32 are integer steps of any float32 scale."""
    levels = random.integers(0, 2**bits, (16, 8, 32))
    zero = random.integers(0, 2**bits, (16, 8, 1))
    if scales is None:
        scales = np.exp(random.uniform(-9, 0, (16, 8, 1)))
    steps = np.float32(scales) * np.float32(levels - zero)
    return steps.reshape(16, 256).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("seed", range(12))
def test_values_on_a_grid_come_back_exactly(seed, dtype):
    matrix = grid(np.random.default_rng(seed), dtype)
    weight = quantize_blocks(matrix, spec=block(symmetric=False), name="w")
    back = weight.dequantize().astype(dtype)
    assert np.array_equal(back, matrix)


def test_values_on_a_grid_whose_scales_are_powers_of_two_come_back_exactly():
    """Just below a power of two the digits are twice as fine."""
    random = np.random.default_rng(0)
    scales = 2.0 ** random.integers(-12, 3, (16, 8, 1)) * (1 - 2.0**-24)
    matrix = grid(random, np.float32, scales=scales)
    weight = quantize_blocks(matrix, spec=block(symmetric=False), name="w")
    assert np.array_equal(weight.dequantize(), matrix)


def test_a_grid_that_uses_few_of_its_levels_comes_back_exactly():
    steps = np.array([0, 0, 7, 2] * 8, np.float32) * np.float32(0.1)
    weight = quantize_blocks(steps[None], spec=block(symmetric=False), name="w")
    assert np.array_equal(weight.dequantize(), steps[None])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", MATRICES)
def test_asymmetric_error_is_at_most_a_step_by_the_range(name, bits, dtype):
    """Half a step from rounding to levels; the zero point's rounding moves the range by half a
    step, so that what lies at its end may be clipped by as much."""
    matrix = MATRICES[name](np.random.default_rng(bits)).astype(dtype)
    weight = quantize_blocks(matrix, spec=block(bits, symmetric=False), name="w")
    assert weight.zero_point is not None
    wide = blocks_of(matrix, 32)
    span = np.maximum(wide.max(1), 0) - np.minimum(wide.min(1), 0)
    step = span / (2**bits - 1) * (1 + 1e-4)  # up to 255 steps of a float32
    error = np.abs(blocks_of(weight.dequantize(), 32) - wide)
    assert (error <= step[:, None]).all()
    levels = blocks_of(weight.q, 32)
    inside = (levels > -(2 ** (bits - 1))) & (levels < 2 ** (bits - 1) - 1)
    # Values that lie on a grid are given back to the last digit of their type, no further.
    digit = np.abs(wide) * float(ml_dtypes.finfo(dtype).eps) / 2
    bound = np.where(inside, step[:, None] / 2, step[:, None])
    assert (error <= np.maximum(bound, digit)).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_and_padding_come_back_as_zeros(symmetric):
    matrix = np.zeros((3, 64), np.float32)
    matrix[1, :32] = np.linspace(-1, 1, 32)
    matrix[2] = -0.0
    weight = quantize_blocks(matrix, spec=block(symmetric=symmetric), name="w", rows=5)
    values = weight.dequantize()
    assert weight.shape == (5, 64)
    assert (weight.scale[0] != 0).all() and np.isfinite(weight.scale).all()
    assert not values[[0, 2, 3, 4]].any() and not values[1, 32:].any()
    assert np.abs(values[1, :32] - matrix[1, :32]).max() <= 2 / 15


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [65504.0, -65504.0])
def test_one_huge_value_survives_and_harms_only_its_block(value, symmetric):
    matrix = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    spec = block(symmetric=symmetric)
    before = quantize_blocks(matrix, spec=spec, name="w").dequantize()
    matrix[0, 3] = value
    after = quantize_blocks(matrix, spec=spec, name="w").dequantize()
    others = 0 if symmetric else 4  # they widen the range
    assert after[0, 3] == pytest.approx(value, rel=1e-6, abs=others)
    assert np.array_equal(after[0, 32:], before[0, 32:]) and np.array_equal(after[1], before[1])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("largest", [1e-45, 1e-39, 1e-31, 1e-25])
def test_values_whose_inverse_overflows_stay_small(largest, symmetric):
    """bfloat16 holds numbers as small as float32 does."""
    matrix = np.linspace(-largest, largest, 32).astype(ml_dtypes.bfloat16)[None]
    weight = quantize_blocks(matrix, spec=block(symmetric=symmetric), name="w")
    assert np.isfinite(weight.scale).all()
    error = np.abs(weight.dequantize().astype(np.float64) - matrix.astype(np.float64))
    assert error.max() <= max(largest / 7, 1e-30)


@pytest.mark.parametrize("symmetric", [True, False])
def test_any_number_of_threads_gives_the_same(symmetric):
    """More rows than one task takes, and a remainder."""
    matrix = np.random.default_rng(0).standard_normal((1041, 3072), dtype=np.float32)
    found = [
        quantize_blocks(matrix, spec=block(symmetric=symmetric), name="w", threads=n)
        for n in (1, 2, 5)
    ]
    part = quantize_blocks(matrix[-9:], spec=block(symmetric=symmetric), name="w")
    for other in found[1:]:
        assert np.array_equal(other.q, found[0].q) and np.array_equal(other.scale, found[0].scale)
    assert np.array_equal(found[0].dequantize()[-9:], part.dequantize())


def _with(value):
    matrix = np.ones((700, 2048), np.float32)
    matrix[650, 17] = value
    return matrix


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (_with(np.nan), "contains NaN"),
        (_with(np.inf), "contains infinity"),
        (_with(-np.inf), "contains infinity"),
        (_with(1e5), "beyond float16"),
        (np.ones((4, 48), np.float32), "48 columns, which blocks of 32 do not divide"),
        (np.ones((0, 32), np.float32), "non-empty matrix"),
        (np.ones(32, np.float32), "non-empty matrix"),
        (np.ones((4, 32), np.float64), "float64"),
    ],
)
def test_what_cannot_be_quantized_is_one_sentence_with_the_tensors_name(matrix, text, symmetric):
    with pytest.raises(InputError, match=text) as caught:
        quantize_blocks(matrix, spec=block(symmetric=symmetric), name="llm.layer.7.weight")
    assert "llm.layer.7.weight" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_impossible_widths_are_refused(bits):
    with pytest.raises(InputError, match=f"w was to be quantized to {bits} bits; use 2 to 8"):
        quantize_blocks(np.ones((2, 32), np.float32), spec=block(bits), name="w")


def test_too_few_rows_are_refused():
    with pytest.raises(InputError, match="has 4 rows and was to be padded to 3"):
        quantize_blocks(np.ones((4, 32), np.float32), spec=block(), name="w", rows=3)
