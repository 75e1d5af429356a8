"""Compiled kernels of block quantization: blocks of a row's columns in, integers and scales out.

They know float32 numbers; checking arguments and wording errors is not theirs.

For given integers q the scale Σwq / Σq² is best; the squared error is then Σw² − (Σwq)² / Σq². So
each scale that is tried costs one pass, and the best integers get the scale that suits them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Float32 = NDArray[np.float32]
Int8 = NDArray[np.int8]


def _kernel(function: F) -> F:
    decorate = numba.njit(
        nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
    )
    return cast(F, decorate(function))


@_kernel
def quantize_symmetric(
    values: Float32, block: int, bits: int, factors: Float32, q: Int8, scales: Float32
) -> None:
    """Quantize rows (r, columns) into q (r, columns) and scales (r, columns / block).

    The scale that maps a block's largest value to −2**(bits − 1) is tried times each of `factors`.
    """
    low, high = np.float32(-(1 << (bits - 1))), np.float32((1 << (bits - 1)) - 1)
    for row in range(values.shape[0]):
        for number in range(scales.shape[1]):
            begin = number * block
            part = values[row, begin : begin + block]
            scale = _best_scale(part, low, high, factors)
            scales[row, number] = scale
            inverse = np.float32(1) / scale
            for i in range(block):
                q[row, begin + i] = np.int8(min(max(np.rint(part[i] * inverse), low), high))


@_kernel
def _best_scale(part: Float32, low: np.float32, high: np.float32, factors: Float32) -> np.float32:
    smallest, largest = np.float32(0), np.float32(0)
    for i in range(part.size):
        smallest, largest = min(smallest, part[i]), max(largest, part[i])
    extreme = largest if largest > -smallest else smallest
    if extreme == 0:
        return np.float32(1)
    best, gain = extreme / low, np.float32(-1)
    for factor in factors:
        inverse = np.float32(1) / (extreme / low * factor)
        product = square = np.float32(0)
        for i in range(part.size):
            rounded = min(max(np.rint(part[i] * inverse), low), high)
            product += part[i] * rounded
            square += rounded * rounded
        if square > 0 and product * product > gain * square:
            gain = product * product / square
            best = product / square
    return best


@_kernel
def quantize_asymmetric(
    values: Float32, block: int, bits: int, q: Int8, scales: Float32, zero_points: Int8
) -> None:
    """Quantize rows to 0 … 2**bits − 1 with the scale (largest − smallest) / (2**bits − 1) of each
    block; the integers and zero points are lowered by 2**(bits − 1) to fit int8."""
    steps, shift = np.float32((1 << bits) - 1), np.float32(1 << (bits - 1))
    for row in range(values.shape[0]):
        for number in range(scales.shape[1]):
            begin = number * block
            smallest, largest = np.float32(0), np.float32(0)
            for i in range(begin, begin + block):
                smallest = min(smallest, values[row, i])
                largest = max(largest, values[row, i])
            scale = (largest - smallest) / steps if largest > smallest else np.float32(1)
            zero = np.rint(-smallest / scale)
            scales[row, number] = scale
            zero_points[row, number] = np.int8(zero - shift)
            for i in range(begin, begin + block):
                level = np.rint(values[row, i] / scale) + zero
                q[row, i] = np.int8(min(max(level, np.float32(0)), steps) - shift)
