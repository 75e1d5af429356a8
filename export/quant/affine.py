"""Symmetric affine quantization: integers with one float16 scale per row.

A matrix goes in, a RowWeight comes out; only one block of rows at a time is in float32. The recipe
decides which matrices are stored this way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.quant.checks import FLOAT16_MAX, check_bits, check_finite, check_matrix
from export.quant.weights import RowWeight

_VALUES_PER_BLOCK = 1 << 18  # fits into a core's cache


def quantize_affine(
    values: NDArray[Any], *, bits: int = 8, name: str, padded_rows: int | None = None
) -> RowWeight:
    """Quantize each row to round(x / scale), scale = float16(max|row| / (2**(bits - 1) - 1)).

    `values` (r, columns) is bfloat16, float16 or float32; `padded_rows` ≥ r appends rows of zeros.
    Raises `InputError`, which names the tensor, for NaN, infinity or values beyond float16.
    """
    rows = values.shape[0] if padded_rows is None else padded_rows
    check_matrix(values, rows, name)
    check_bits(bits, 2, name)
    q = np.zeros((rows, values.shape[1]), np.int8)
    scale = np.ones((rows, 1), np.float16)
    step = max(1, _VALUES_PER_BLOCK // values.shape[1])
    for begin in range(0, values.shape[0], step):
        block = values[begin : begin + step].astype(np.float32)
        limit = np.abs(block).max(axis=1, keepdims=True)
        if not (limit <= FLOAT16_MAX).all():
            check_finite(block, name)
        end = begin + len(block)
        scale[begin:end] = _row_scales(limit, 2 ** (bits - 1) - 1)
        block /= scale[begin:end].astype(np.float32)
        np.rint(block, out=block)
        q[begin:end] = np.clip(block, 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1, out=block)
    return RowWeight(q, scale, None, bits)


def _row_scales(limit: NDArray[np.float32], largest: int) -> NDArray[np.float16]:
    """Scales (r, 1) for rows of magnitude `limit`; 1 for a row of zeros."""
    scale = (limit / largest).astype(np.float16)
    # Among float16's denormals rounding down can lose half the scale and clip the row, so round up.
    short = scale.astype(np.float32) * (largest + 0.5) < limit
    scale = np.where(short, np.nextafter(scale, np.float16(np.inf)), scale)
    return np.where(limit == 0, np.float16(1), scale)
