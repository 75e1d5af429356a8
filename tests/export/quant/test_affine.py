"""Row-wise affine quantization: error bounds, padding, extremes, refusals."""

import ml_dtypes
import numpy as np
import pytest

from export.quant.affine import quantize_affine
from mobile_runtime.errors import InputError

TYPES = [ml_dtypes.bfloat16, np.float16, np.float32]


def test_integers_and_scale_of_a_known_row() -> None:
    weight = quantize_affine(np.array([[127.0, -63.4, 0.5, 1.5, -127.0]], np.float32), name="w")
    assert weight.scale.tolist() == [[1.0]]
    assert weight.q.tolist() == [[127, -63, 0, 2, -127]]
    assert weight.offset is None


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bits", range(2, 9))
def test_error_is_at_most_half_a_step(bits: int, dtype: type) -> None:
    random = np.random.default_rng(bits)
    matrix = (random.standard_t(4, (40, 33)) * 10 ** random.uniform(-3, 2, (40, 1))).astype(dtype)
    weight = quantize_affine(matrix, bits=bits, name="w")
    wide = matrix.astype(np.float64)
    largest = 2 ** (bits - 1) - 1
    assert np.abs(weight.q).max() <= largest
    exact = np.abs(wide).max(axis=1, keepdims=True) / largest
    np.testing.assert_allclose(weight.scale.astype(np.float64), exact, rtol=2.0**-11, atol=2.0**-25)
    # The rounded scale may miss the largest value by `largest` times its own error.
    slack = np.maximum(exact * 2.0**-11 * largest, exact * 1e-6)
    error = np.abs(weight.dequantize() - wide)
    clipped = np.abs(weight.q) == largest
    scale = weight.scale.astype(np.float64)
    assert (error <= np.where(clipped, scale / 2 + slack, scale / 2 * (1 + 1e-6))).all()


@pytest.mark.parametrize("limit", [2.0**-24, 1e-6, 11.4e-6, 2e-5, 1e-4])
def test_rows_whose_scale_is_denormal_are_not_clipped(limit: float) -> None:
    matrix = np.linspace(-limit, limit, 21, dtype=np.float32)[None]
    weight = quantize_affine(matrix, name="w")
    step = float(weight.scale[0, 0])
    assert 0 < step <= limit / 127 + 2.0**-24
    assert np.abs(weight.dequantize() - matrix).max() <= step / 2 * (1 + 1e-6)


def test_rows_of_zeros_come_back_as_zeros() -> None:
    matrix = np.array([[0.0, -0.0], [1.0, 2.0]], np.float16)
    weight = quantize_affine(matrix, name="w")
    assert np.isfinite(weight.scale).all()
    assert weight.dequantize()[0].tolist() == [0.0, 0.0]


def test_largest_float16_survives() -> None:
    weight = quantize_affine(np.array([[65504.0, -65504.0]], np.float32), name="w")
    assert weight.q.tolist() == [[127, -127]]


def test_added_rows_are_zero() -> None:
    matrix = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float16)
    weight = quantize_affine(matrix, name="w", padded_rows=8)
    assert weight.shape == (8, 4)
    assert not weight.rows(5, 8).any()
    np.testing.assert_array_equal(weight.rows(0, 5), quantize_affine(matrix, name="w").dequantize())


def test_rows_of_one_matrix_do_not_depend_on_each_other() -> None:
    """Spans several internal blocks; each row must equal the row quantized alone."""
    matrix = np.random.default_rng(1).normal(size=(1100, 600)).astype(ml_dtypes.bfloat16)
    weight = quantize_affine(matrix, name="w")
    for row in (0, 435, 436, 437, 873, 874, 1099):
        alone = quantize_affine(matrix[row : row + 1], name="w")
        np.testing.assert_array_equal(weight.q[row], alone.q[0])
        assert weight.scale[row] == alone.scale[0]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("value", "text"), [(np.nan, "NaN"), (-np.inf, "infinity")])
def test_row_that_is_not_finite_names_the_tensor(value: float, text: str, dtype: type) -> None:
    matrix = np.ones((8, 6), dtype)
    matrix[7, 5] = value
    with pytest.raises(InputError, match=f"embed_tokens contains {text}"):
        quantize_affine(matrix, name="embed_tokens")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32])
def test_value_beyond_float16_names_the_tensor(dtype: type) -> None:
    with pytest.raises(InputError, match="embed_tokens contains a value of magnitude"):
        quantize_affine(np.full((2, 2), -7e4, dtype), name="embed_tokens")


@pytest.mark.parametrize("bits", [1, 9])
def test_impossible_width_is_refused(bits: int) -> None:
    with pytest.raises(InputError, match="use 2 to 8"):
        quantize_affine(np.ones((2, 2), np.float16), bits=bits, name="w")


def test_what_is_no_weight_matrix_is_refused() -> None:
    with pytest.raises(InputError, match="w has shape"):
        quantize_affine(np.ones(3, np.float16), name="w")
    with pytest.raises(InputError, match="pad to more rows"):
        quantize_affine(np.ones((3, 3), np.float16), name="w", padded_rows=2)
