"""Block quantization against float64 statements of what it promises."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from export.quant.blocks import quantize_blocks
from export.quant.recipe import QuantSpec
from mobile_runtime.errors import InputError
from tests.paths import ROOT

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
    return QuantSpec("blocks", bits, size, symmetric)


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
    assert weight.offset is None and weight.scale.shape == (24, 512 // size)
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


# How far minima lie from zero, in steps: within the grid, beyond it, far from it.
MINIMA = {"within": (-15, 0), "beyond": (-100, 15), "far": (300, 1000)}
Q4_1 = [(np.float16, name) for name in MINIMA] + [(ml_dtypes.bfloat16, "within")]


def q4_1(random, kind, minima, low=0, high=15):
    """Blocks (4096, 32) of llama.cpp's Q4_1 as it expands them, in float32: d · q + m of stored d
    and m."""
    scale = np.exp(random.uniform(-8, 0, (4096, 1))).astype(kind).astype(np.float32)
    minimum = (scale * random.uniform(*minima, scale.shape)).astype(kind).astype(np.float32)
    levels = random.integers(low, high + 1, (4096, 32)).astype(np.float32)
    return scale * levels + minimum


@pytest.mark.parametrize(("kind", "minima"), Q4_1)
@pytest.mark.parametrize(("low", "high"), [(0, 15), (3, 12), (7, 9)])
def test_expanded_q4_1_comes_back_bit_by_bit(kind, minima, low, high):
    matrix = q4_1(np.random.default_rng(0), kind, MINIMA[minima], low, high)
    back = quantize_blocks(matrix, spec=block(symmetric=False), name="w").dequantize()
    assert np.array_equal(back, matrix)


@pytest.mark.parametrize("dtype", TYPES[:2])
def test_rounded_q4_1_comes_back_as_what_rounds_to_the_same(dtype):
    matrix = q4_1(np.random.default_rng(0), np.float16, MINIMA["within"]).astype(dtype)
    back = quantize_blocks(matrix, spec=block(symmetric=False), name="w").dequantize()
    assert np.array_equal(back.astype(dtype), matrix)


@pytest.mark.parametrize("dtype", TYPES)
def test_integer_zero_points_of_any_scale_come_back_to_the_last_digit(dtype):
    """Not to the last bit of float32, which cannot hold every product of scale and zero point."""
    random = np.random.default_rng(0)
    scale = np.exp(random.uniform(-9, 0, (4096, 1))).astype(np.float32)
    zero = random.integers(0, 16, (4096, 1))
    matrix = scale * (random.integers(0, 16, (4096, 32)) - zero).astype(np.float32)
    matrix = matrix.astype(dtype)
    back = quantize_blocks(matrix, spec=block(symmetric=False), name="w").dequantize()
    if dtype is np.float32:
        assert (np.abs(back - matrix).max(1) <= 2.0**-22 * np.abs(matrix).max(1)).all()
    else:
        assert np.array_equal(back.astype(dtype), matrix)


def test_a_scale_just_below_a_power_of_two_is_found():
    """There the digits are twice as fine."""
    random = np.random.default_rng(0)
    scale = 2.0 ** random.integers(-12, 3, (128, 1)) * (1 - 2.0**-11)
    matrix = (scale * random.integers(-8, 8, (128, 32))).astype(np.float32)
    weight = quantize_blocks(matrix, spec=block(symmetric=False), name="w")
    assert np.array_equal(weight.dequantize(), matrix)


def test_a_grid_that_uses_few_of_its_levels_comes_back_exactly():
    steps = np.array([0, 0, 7, 2] * 8, np.float32) * np.float32(0.1)
    weight = quantize_blocks(steps[None], spec=block(symmetric=False), name="w")
    assert np.array_equal(weight.dequantize(), steps[None])


def test_a_constant_block_comes_back_exactly():
    matrix = np.repeat(np.random.default_rng(0).standard_normal((4, 8), np.float32), 32, axis=1)
    weight = quantize_blocks(matrix, spec=block(symmetric=False), name="w")
    assert np.array_equal(weight.dequantize(), matrix)


def plain_offset_errors(blocks, bits):
    """Rounding to equal steps from the smallest value to the largest."""
    low, high = blocks.min(1, keepdims=True), blocks.max(1, keepdims=True)
    step = (high - low) / (2.0**bits - 1)
    return np.square(np.rint((blocks - low) / step) * step + low - blocks).sum(1)


def least_offset_errors(blocks, bits):
    """Least squared error over a fine grid of ranges, each replaced by the best line through what
    it rounds to."""
    least = np.full(len(blocks), np.inf)
    low, span = blocks.min(1, keepdims=True), np.ptp(blocks, axis=1, keepdims=True)
    steps, mean = 2.0**bits - 1, blocks.mean(1, keepdims=True)
    for width in np.linspace(0.6, 1.1, 26):
        for shift in np.linspace(-1, 1, 17):
            step = span / steps * width
            begin = low + (span - step * steps) / 2 + shift * step
            q = np.clip(np.rint((blocks - begin) / step), 0, steps)
            q -= q.mean(1, keepdims=True)
            slope = (q * (blocks - mean)).sum(1) / np.square(q).sum(1)
            least = np.minimum(least, np.square(blocks - mean - q * slope[:, None]).sum(1))
    return least


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("bits", "size"), [(2, 16), (4, 32), (4, 128), (8, 32)])
@pytest.mark.parametrize("name", MATRICES)
def test_no_block_with_an_offset_is_worse_than_plain_rounding(name, bits, size, dtype):
    matrix = MATRICES[name](np.random.default_rng(bits)).astype(dtype)
    weight = quantize_blocks(matrix, spec=block(bits, size, False), name="w")
    assert weight.offset is not None and weight.offset.shape == (24, 512 // size)
    assert -(2 ** (bits - 1)) <= weight.q.min() and weight.q.max() < 2 ** (bits - 1)
    # Values on a grid come back to the last digit of their type; 1e-5: scales are float32.
    wide = blocks_of(matrix, size)
    digit = np.square(wide * float(ml_dtypes.finfo(dtype).eps) / 2).sum(1)
    plain = plain_offset_errors(wide, bits)
    assert (errors(matrix, weight, size) <= np.maximum(plain * (1 + 1e-5), digit)).all()


@pytest.mark.parametrize("name", MATRICES)
def test_the_error_with_an_offset_is_close_to_the_least(name):
    matrix = MATRICES[name](np.random.default_rng(7)).astype(np.float32)
    weight = quantize_blocks(matrix, spec=block(symmetric=False), name="w")
    least = least_offset_errors(blocks_of(matrix, 32), 4).sum()
    assert errors(matrix, weight, 32).sum() <= 1.03 * least


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_and_padding_come_back_as_zeros(symmetric):
    matrix = np.zeros((3, 64), np.float32)
    matrix[1, :32] = np.linspace(-1, 1, 32)
    matrix[2] = -0.0
    weight = quantize_blocks(matrix, spec=block(symmetric=symmetric), name="w", padded_rows=5)
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
        quantize_blocks(np.ones((4, 32), np.float32), spec=block(), name="w", padded_rows=3)


_IN_A_PROCESS = """
import hashlib, ml_dtypes, numpy as np
from export.quant.blocks import quantize_blocks
from export.quant.recipe import QuantSpec
matrix = np.random.default_rng(0).standard_t(4, (512, 256)).astype(ml_dtypes.bfloat16)
for symmetric in (True, False):
    weight = quantize_blocks(matrix, spec=QuantSpec("blocks", 4, 32, symmetric), name="w")
    offset = np.zeros(0) if symmetric else weight.offset
    stored = weight.q.tobytes() + weight.scale.tobytes() + offset.tobytes()
    print(hashlib.sha256(stored).hexdigest())
"""


def test_kernels_that_were_compiled_before_give_the_same_integers(tmp_path):
    """Sums may be reordered, but by the source alone, not by what was in the compiler's cache."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", _IN_A_PROCESS]
    compiled, loaded = (
        subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc")), "the second process found nothing to load"
    assert compiled == loaded and len(compiled.split()) == 2
