"""Products of constant matrices with columns, by shape.

A few columns meet the stored bytes in compiled kernels. For more, blocks of rows are expanded into
memory that stays in a core's cache and meet the columns in BLAS. All cores take part.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from .buffers import RESULTS, Buffers
from .number_kernels import multiply_few
from .threads import cores, run_blocks
from .values import Weight

_ONE_BY_ONE = 4  # columns; for more, it is faster to expand a row than to read it for each
_FEW = 256  # columns; for more, BLAS spends more on arranging them than on expanded blocks
_BLOCK_BYTES = 2 << 20  # of expanded rows; about a core's cache
_LARGE_BLOCK_BYTES = 8 << 20
_ROWS = 16  # blocks are whole groups of so many rows
_BLOCKS = 4  # for each core, so that a free one can take over
_LEAST_WORK = 1 << 18  # multiplications in a block; below, a thread costs more than it gives
_FEW_ROWS = 8
_BUFFERS = Buffers()


def multiply(weight: Array | Weight, columns: Array) -> Array:
    """weight (rows, K, …) · columns (K, n) -> (rows, n), K being all sizes after the first."""
    rows, (width, n) = weight.shape[0], columns.shape
    if prod(weight.shape[1:]) != width:  # kernels do not check
        raise ValueError(f"{width} rows of columns for a matrix {weight.shape}")
    factor = weight.factor() if isinstance(weight, Weight) else weight
    if isinstance(factor, Weight):
        if n <= _ONE_BY_ONE and factor.multiplies:
            return _one_by_one(factor, columns)
        return _in_blocks(factor, factor.arrange(columns))
    matrix, out = factor.reshape(rows, width), np.empty((rows, n), np.float32)

    def work(begin: int, end: int) -> None:
        np.matmul(matrix[begin:end], columns, out=out[begin:end])

    run_blocks(work, rows, _step(rows, width, n, rows))
    return out


def _one_by_one(weight: Weight, columns: Array) -> Array:
    rows, (width, n) = weight.shape[0], columns.shape
    arranged = np.ascontiguousarray(weight.arrange(columns).T)
    out = np.empty((n, rows), np.float32)

    def work(begin: int, end: int) -> None:
        for x, result in zip(arranged, out, strict=True):
            weight.multiply(x, begin, end, result)

    run_blocks(work, rows, _step(rows, width, n, rows))
    return out.T


def _in_blocks(weight: Weight, columns: Array) -> Array:
    rows, (width, n) = weight.shape[0], columns.shape
    out = RESULTS.empty((rows, n))
    size = _BLOCK_BYTES if n <= _FEW else _LARGE_BLOCK_BYTES

    def work(begin: int, end: int) -> None:
        block = _BUFFERS.matrix(end - begin, width)
        weight.fill(begin, end, block)
        np.matmul(block, columns, out=out[begin:end])

    run_blocks(work, rows, _step(rows, width, n, max(1, size // (4 * width))))
    return out


def _step(rows: int, width: int, n: int, most: int) -> int:
    """Rows of a block: about `most` if all cores get several, fewer if not, but worth a thread."""
    least = -(-_LEAST_WORK // max(1, width * n))
    step = min(most, max(least, -(-rows // (_BLOCKS * cores()))))
    return -(-step // _ROWS) * _ROWS


def multiply_batch(x: Array, y: Array) -> Array:
    """x (…, m, k) · y (…, k, n), as `np.matmul`, whose leading axes broadcast."""
    if x.ndim < 3 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-2]:
        return np.asarray(x @ y)
    batch, (m, k), n = x.shape[:-2], x.shape[-2:], y.shape[-1]
    if x.dtype != np.float32 or y.dtype != np.float32:
        return np.asarray(x @ y)
    out = RESULTS.empty((*batch, m, n))
    places = list(np.ndindex(batch))
    product: Callable[[Array, Array, Array], object] = np.matmul
    if m <= _FEW_ROWS and y.strides[-1] > y.strides[-2]:
        product = multiply_few  # BLAS would arrange all of y anew for a few rows of x

    def work(begin: int, end: int) -> None:
        for place in places[begin:end]:
            product(x[place], y[place], out[place])

    run_blocks(work, len(places), -(-_LEAST_WORK // max(1, m * k * n)))
    return out
