"""Compiled kernels of block quantization: blocks of a row's columns in, integers and scales out.

They know float32 numbers; checking arguments and wording errors is not theirs.

A scale s that is tried gives integers q and rests r = w/s − q. For these integers the scale
s · (1 + Σrq / Σq²) is best, and its squared error is s² · (Σr² − (Σrq)² / Σq²). So each scale costs
one pass, and the best integers get the scale that suits them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Float32 = NDArray[np.float32]
Int8 = NDArray[np.int8]
# A block whose values are all smaller counts as zeros: the inverse of its scale would be infinite.
_TINY = np.float32(1e-30)


def _kernel(function: F) -> F:
    decorate = numba.njit(
        nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
    )
    return cast(F, decorate(function))


@_kernel
def quantize_symmetric(
    values: Float32, bits: int, factors: Float32, q: Int8, scales: Float32
) -> None:
    """Quantize rows (r, columns) into q (r, columns) and scales (r, columns / block).

    The scale that maps a block's largest value to −2**(bits − 1) is tried times each of `factors`.
    """
    low, high = np.float32(-(1 << (bits - 1))), np.float32((1 << (bits - 1)) - 1)
    block = values.shape[1] // scales.shape[1]
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
    if abs(extreme) < _TINY:
        return np.float32(1)
    best, least = extreme / low, np.float32(np.inf)
    for factor in factors:
        scale = extreme / low * factor
        inverse = np.float32(1) / scale
        rest = product = square = np.float32(0)
        for i in range(part.size):
            level = part[i] * inverse
            rounded = min(max(np.rint(level), low), high)
            rest += (level - rounded) * (level - rounded)
            product += (level - rounded) * rounded
            square += rounded * rounded
        if square > 0:
            error = (rest - product * product / square) * factor * factor
            if error < least:
                least = error
                best = scale + scale * product / square
    return best


@_kernel
def quantize_asymmetric(
    values: Float32, bits: int, digits: int, q: Int8, scales: Float32, zero_points: Int8
) -> None:
    """Quantize rows to 0 … 2**bits − 1 with the scale (largest − smallest) / (2**bits − 1) of each
    block, or with that of the grid on which its values lie already; the integers and zero points
    are lowered by 2**(bits − 1) to fit int8. The type of the values had `digits` binary digits.
    """
    steps, shift = np.float32((1 << bits) - 1), np.float32(1 << (bits - 1))
    block = values.shape[1] // scales.shape[1]
    for row in range(values.shape[0]):
        for number in range(scales.shape[1]):
            begin = number * block
            part = values[row, begin : begin + block]
            smallest, largest = np.float32(0), np.float32(0)
            for i in range(block):
                smallest, largest = min(smallest, part[i]), max(largest, part[i])
            scale = np.float32(1)
            if largest - smallest >= _TINY:
                scale = _grid_scale(part, largest - smallest, (1 << bits) - 1, digits)
                if scale == 0:
                    scale = (largest - smallest) / steps
            zero = np.rint(-smallest / scale)
            scales[row, number] = scale
            zero_points[row, number] = np.int8(zero - shift)
            for i in range(block):
                level = np.rint(part[i] / scale) + zero
                q[row, begin + i] = np.int8(min(max(level, np.float32(0)), steps) - shift)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # rounding is what it is about
def _grid_scale(part: Float32, span: np.float32, steps: int, digits: int) -> np.float32:
    """The scale whose multiples, rounded to `digits` binary digits, are the values; 0 if none.

    `span` may be any number of steps. Each value v = k · scale bounds the scale by v ± half of its
    last digit, divided by k; a scale within all bounds gives every value back.
    """
    for count in range(steps, 0, -1):
        guess = float(span) / count
        low, high = 0.0, math.inf
        for i in range(part.size):
            value = abs(float(part[i]))
            k = np.rint(value / guess)
            mantissa, exponent = math.frexp(value)
            half = math.ldexp(0.5, exponent - digits)
            below = half / 2 if mantissa == 0.5 else half  # digits are finer below a power of two
            if k == 0:
                if value != 0:
                    high = -1.0
            else:
                low, high = max(low, (value - below) / k), min(high, (value + half) / k)
            if low > high:
                break
        if low <= high:
            return np.float32((low + high) / 2)
    return np.float32(0)
