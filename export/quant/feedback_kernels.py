"""Compiled kernels of error feedback: one block of columns of some rows, column after column.

They work on float32. Callers validate arguments and raise errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Float32 = NDArray[np.float32]

# Sums may not be reordered: feedback amplifies differences, and a result must not depend on them.
_FAST = {"contract", "nsz"}


class Block(NamedTuple):
    """Some columns of some rows, (rows, width) each, in the order in which they are rounded.

    `targets` are the values with the errors of earlier blocks fed back, and change; `values` are
    the weights themselves; `errors`, value − level, are written. `coefficients` (width, width) is
    upper unit triangular.
    """

    targets: Float32
    values: Float32
    coefficients: Float32
    errors: Float32


def _kernel(function: F) -> F:
    decorate = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
    return cast(F, decorate(function))


@_kernel
def round_to_tables(
    block: Block, luts: Float32, group_size: int, indices: NDArray[np.uint8]
) -> None:
    """Choose the table entry nearest to each target, and pass its error on to the next columns.

    Rows 0 … group_size − 1 use luts[0], and so on; tables ascend. Writes `indices` (rows, width).
    """
    width, last = block.targets.shape[1], luts.shape[1] - 1
    for row in range(block.targets.shape[0]):
        table, target = luts[row // group_size], block.targets[row]
        for column in range(width):
            wanted = target[column]
            low, high = 0, last
            while low < high:
                middle = (low + high) >> 1
                if wanted - table[middle] > table[middle + 1] - wanted:
                    low = middle + 1
                else:
                    high = middle
            indices[row, column] = low
            error = block.values[row, column] - table[low]
            block.errors[row, column] = error
            for later in range(column + 1, width):
                target[later] += error * block.coefficients[column, later]


@_kernel
def round_to_grids(
    block: Block, scales: Float32, offsets: Float32, bits: int, q: NDArray[np.int8]
) -> None:
    """Choose the integer whose value, scale · q + offset, is nearest to each target.

    As `round_to_tables`, with one scale and one offset per value, (rows, width).
    """
    low, high = np.float32(-(1 << (bits - 1))), np.float32((1 << (bits - 1)) - 1)
    width = block.targets.shape[1]
    for row in range(block.targets.shape[0]):
        target = block.targets[row]
        for column in range(width):
            scale, offset = scales[row, column], offsets[row, column]
            level = min(max(np.rint((target[column] - offset) / scale), low), high)
            q[row, column] = np.int8(level)
            error = block.values[row, column] - (scale * level + offset)
            block.errors[row, column] = error
            for later in range(column + 1, width):
                target[later] += error * block.coefficients[column, later]
