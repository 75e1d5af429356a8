"""Compiled kernels of block quantization: blocks of a row's columns in, integers and scales out.

They work on float32. Callers validate arguments and raise errors.

A candidate scale s gives weights w the integers q and residuals r = w/s − q. For these integers,
least squares gives the scale s · (1 + Σrq / Σq²) with the squared error s² · (Σr² − (Σrq)² / Σq²).
So each candidate costs one pass, and the best integers get the scale that fits them best. With an
offset o the residuals are r = (w − o)/s − q, and the regression line r ≈ α + βq changes s to
s · (1 + β) and o to o + s · α.

A weight that was quantized before and then dequantized is s · q + o for few integers q, rounded to
the type in which it is stored. Each value v bounds s and o: s · q + o differs from v by at most
half a unit in the last place (ulp). All bounds together leave a range for the scale, and each scale
leaves a range for the offset. In either range, the number with the fewest binary digits is tried
first, because quantized files store short numbers.
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
Float64 = NDArray[np.float64]
Int8 = NDArray[np.int8]
# A block whose values are all smaller counts as zeros: the inverse of its scale would be infinite.
_TINY = np.float32(1e-30)
# For a block with an offset: candidate widths (fractions of its range; < 1 clips its ends and fits
# the rest better) and shifts (in steps). Together they cut the error by about 10 % on normal data.
_WIDTHS = np.array([1, *np.linspace(0.7, 1.05, 8)], np.float32)
_SHIFTS = np.array([0, -0.5, -0.25, 0.25, 0.5], np.float32)
_FLOAT16_DIGITS, _FLOAT32_DIGITS = 11, 24
_LESS = 1 - 2.0**-10  # shrinks half an ulp so that ties, which round to even, are excluded
_LONGEST = 25  # binary digits that are tried; a float32 has 24


_FAST = {"contract", "reassoc", "nsz"}  # allows reordering of sums


def _kernel(function: F) -> F:
    decorate = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
    return cast(F, decorate(function))


def _inlined(function: F) -> F:
    """Compile into the caller only. A function of its own would exist twice, with two orders of
    sums, and the state of numba's cache would decide which one runs."""
    decorate = numba.njit(error_model="numpy", fastmath=_FAST, inline="always")
    return cast(F, decorate(function))


def _strict(function: F) -> F:
    """Compile without reordering, for functions that depend on exact rounding."""
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


@_kernel
def quantize_symmetric(
    values: Float32, bits: int, factors: Float32, q: Int8, scales: Float32
) -> None:
    """Quantize rows (r, columns) into q (r, columns) and scales (r, columns / block).

    Candidate scales are `factors` times the one that maps a block's largest value to
    −2**(bits − 1).
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


@_inlined
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
    values: Float32, bits: int, digits: int, q: Int8, scales: Float32, offsets: Float32
) -> None:
    """Quantize rows (r, columns) into q (r, columns), scales and offsets (r, columns / block).

    A block whose values lie on a grid gets that grid; any other gets the scale and offset of least
    squared error among those tried. The original type of the values has `digits` binary digits.
    """
    low, high = np.float32(-(1 << (bits - 1))), np.float32((1 << (bits - 1)) - 1)
    block = values.shape[1] // scales.shape[1]
    bounds = np.empty((2, 1 << bits), np.float64)
    for row in range(values.shape[0]):
        for number in range(scales.shape[1]):
            begin = number * block
            part = values[row, begin : begin + block]
            smallest, largest = part[0], part[0]
            for i in range(block):
                smallest, largest = min(smallest, part[i]), max(largest, part[i])
            if largest - smallest < _TINY:
                scale, offset = _TINY, smallest  # a large one would only add rounding
            else:
                scale, offset = _find_grid(part, smallest, largest, digits, bounds)
                if scale == 0:
                    scale, offset = _best_line(part, smallest, largest, low, high)
            scales[row, number] = scale
            offsets[row, number] = offset
            for i in range(block):
                level = np.rint((part[i] - offset) / scale)
                q[row, begin + i] = np.int8(min(max(level, low), high))


@_inlined
def _best_line(
    part: Float32, smallest: np.float32, largest: np.float32, low: np.float32, high: np.float32
) -> tuple[np.float32, np.float32]:
    """Scale and offset of a block that is not constant."""
    count = np.float32(part.size)
    whole = (largest - smallest) / (high - low)
    best, best_offset, least = np.float32(0), np.float32(0), np.float32(np.inf)
    for width in _WIDTHS:
        scale = whole * width
        inverse = np.float32(1) / scale
        for shift in _SHIFTS:
            # Maps the middle of the integers, −1/2, to the middle of the range.
            middle = smallest + (largest - smallest) * np.float32(0.5)
            offset = middle + scale * (np.float32(0.5) + shift)
            rests = squares = products = total = total_squares = np.float32(0)
            for i in range(part.size):
                level = (part[i] - offset) * inverse
                rounded = min(max(np.rint(level), low), high)
                rest = level - rounded
                rests += rest
                squares += rest * rest
                products += rest * rounded
                total += rounded
                total_squares += rounded * rounded
            spread = count * total_squares - total * total
            if spread > 0:
                slope = (count * products - rests * total) / spread
                shifted = (rests - slope * total) / count
                error = (squares - shifted * rests - slope * products) * width * width
                if error < least:
                    least = error
                    best = scale + scale * slope
                    best_offset = offset + scale * shifted
    return best, best_offset


@_strict
def _find_grid(
    part: Float32, smallest: np.float32, largest: np.float32, digits: int, bounds: Float64
) -> tuple[np.float32, np.float32]:
    """The scale and offset of the grid on which the values of a block lie; scale 0 if on none.

    If float32 allows it, they restore every value: float32(scale · q + offset), rounded to `digits`
    binary digits, is the value, for an integer q in −n … n − 1. `bounds` (2, 2 · n) is scratch
    space; the values must not all be equal.
    """
    steps = bounds.shape[1] - 1
    half = _half_digit(float(max(abs(smallest), abs(largest))), digits)
    nearest, nearest_offset = np.float32(0), np.float32(0)
    for count in range(steps, 0, -1):
        step = (float(largest) - float(smallest)) / count
        if not _is_near(part, float(smallest), step, 8 * half):
            continue
        # With a long scale, the product was rounded before the sum, and may be twice as large.
        for attempt in range(2 if digits == _FLOAT32_DIGITS else 1):
            rounding = digits, 2 * half * attempt
            _bound_levels(part, float(smallest), step, rounding, bounds)
            low, high = _scale_range(bounds, count)
            if low > high:
                continue
            for scale in (_shortest(low, high), np.float32((low + high) / 2)):
                first, last = _offset_range(bounds, count, scale)
                for offset in (_shortest(first, last), np.float32((first + last) / 2)):
                    if _gives_back(part, scale, offset, digits, (steps + 1) // 2):
                        return scale, offset
                    if nearest == 0:
                        nearest, nearest_offset = scale, offset
    return nearest, nearest_offset


@_strict
def _half_digit(value: float, digits: int) -> float:
    """Half a unit in the last place of `value`: the most that rounding to it changes."""
    _, exponent = math.frexp(value)
    least = -13 if digits == _FLOAT16_DIGITS else -125  # smaller numbers have fewer digits
    return math.ldexp(0.5, (max(exponent, least) if value != 0 else least) - digits)


@_strict
def _is_near(part: Float32, smallest: float, step: float, tolerance: float) -> bool:
    for i in range(part.size):
        distance = float(part[i]) - smallest
        if abs(distance - np.rint(distance / step) * step) > tolerance:
            return False
    return True


@_strict
def _bound_levels(
    part: Float32, smallest: float, step: float, rounding: tuple[int, float], bounds: Float64
) -> None:
    """Write to `bounds` the least and the largest number that rounds to all values of each level.

    `rounding` holds the binary digits of the values, and a further tolerance.
    """
    digits, more = rounding
    bounds[0], bounds[1] = -math.inf, math.inf
    for i in range(part.size):
        value = float(part[i])
        level = int(np.rint((value - smallest) / step))
        half = _half_digit(value, digits)
        if value % (4 * half) != 0:  # an odd digit: ties round away from it
            half *= _LESS
        below, above = half, half
        if abs(math.frexp(value)[0]) == 0.5:  # below a power of two, digits are finer
            below, above = (half / 2, half) if value > 0 else (half, half / 2)
        bounds[0, level] = max(bounds[0, level], value - below - more)
        bounds[1, level] = min(bounds[1, level], value + above + more)


@_strict
def _scale_range(bounds: Float64, count: int) -> tuple[float, float]:
    low, high = 0.0, math.inf
    for upper in range(1, count + 1):
        if bounds[1, upper] < math.inf:
            for lower in range(upper):
                low = max(low, (bounds[0, upper] - bounds[1, lower]) / (upper - lower))
                high = min(high, (bounds[1, upper] - bounds[0, lower]) / (upper - lower))
    return low, high


@_strict
def _offset_range(bounds: Float64, count: int, scale: np.float32) -> tuple[float, float]:
    low, high = -math.inf, math.inf
    for level in range(count + 1):
        steps = float(scale) * (level - (count + 1) // 2)
        low, high = max(low, bounds[0, level] - steps), min(high, bounds[1, level] - steps)
    return low, high


@_strict
def _shortest(low: float, high: float) -> np.float32:
    """The number of low … high with the fewest binary digits, or their middle if all are long."""
    if low <= 0 <= high:
        return np.float32(0)
    _, exponent = math.frexp(max(abs(low), abs(high)))
    for length in range(_LONGEST):
        unit = math.ldexp(1.0, exponent - length)
        number = math.ceil(low / unit) * unit
        if number <= high:
            return np.float32(number)
    return np.float32((low + high) / 2)


@_strict
def _gives_back(
    part: Float32, scale: np.float32, offset: np.float32, digits: int, reach: int
) -> bool:
    for i in range(part.size):
        level = np.float32(np.rint((part[i] - offset) / scale))
        if not -reach <= level < reach:
            return False
        value = float(np.float32(float(scale) * level + float(offset)))
        unit = 2 * _half_digit(value, digits)
        if np.rint(value / unit) * unit != float(part[i]):
            return False
    return True
