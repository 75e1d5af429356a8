"""Compiled kernels of numbers: halves, integers with scales, rounding, products of few rows.

Callers validate arguments and raise errors. All share this file because numba's cache notices a
change only in a kernel's own file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
UInt16 = NDArray[np.uint16]

_FAST = {"contract", "reassoc", "nsz"}  # allows reordering of sums
_WORD, _REAL = ir.IntType(32), ir.FloatType()


def _kernel(function: F) -> F:
    decorate = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
    return cast(F, decorate(function))


def _strict(function: F) -> F:
    """Compile without reordering, for functions that depend on exact rounding."""
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


def _instructions(function: Callable[..., Any]) -> Any:
    """A function whose instructions `function` writes in LLVM's language."""
    return intrinsic(function)


def _word(value: int) -> ir.Constant:
    return ir.Constant(_WORD, value)


@_instructions
def _widen(_: Any, half: Any) -> Any:
    """The float32 of 16 bits that hold a half. Not every processor has an instruction for it, so
    exponent and fraction are moved to their places in a float32 and scaled by 2^112; infinities
    and NaN get the largest exponent."""

    def generate(_: Any, b: ir.IRBuilder, __: Any, given: Any) -> Any:
        bits = b.zext(given[0], _WORD)
        size = b.shl(b.and_(bits, _word(0x7FFF)), _word(13))
        scaled = b.fmul(b.bitcast(size, _REAL), ir.Constant(_REAL, 2.0**112))
        is_finite = b.icmp_unsigned("<", size, _word(0x7C00 << 13))
        special = b.or_(size, _word(0x7F80_0000))
        value = b.select(is_finite, b.bitcast(scaled, _WORD), special)
        sign = b.shl(b.and_(bits, _word(0x8000)), _word(16))
        return b.bitcast(b.or_(value, sign), _REAL)

    return numba.types.float32(half), generate


@_instructions
def _rounded(_: Any, value: Any) -> Any:
    """The nearest half of a float32, ties to even, as a float32.

    Adding 1.5·2^(e+13) to a value of exponent e leaves 10 fraction bits. Scaling by 2^112 and back
    turns what exceeds 65504 into infinity. The sign is carried over: a negative value that rounds
    to zero stays negative.
    """

    def generate(_: Any, b: ir.IRBuilder, __: Any, given: Any) -> Any:
        bits = b.bitcast(given[0], _WORD)
        exponent = b.and_(bits, _word(0x7F80_0000))
        smallest, largest = _word((127 - 14) << 23), _word((127 + 15) << 23)  # of a half
        exponent = b.select(b.icmp_unsigned("<", exponent, smallest), smallest, exponent)
        exponent = b.select(b.icmp_unsigned(">", exponent, largest), largest, exponent)
        magic = b.bitcast(b.add(exponent, _word((13 << 23) | 0x40_0000)), _REAL)
        value = b.fsub(b.fadd(given[0], magic), magic)
        value = b.fmul(b.fmul(value, ir.Constant(_REAL, 2.0**112)), ir.Constant(_REAL, 2.0**-112))
        sign = b.and_(bits, _word(0x8000_0000))
        return b.bitcast(b.or_(b.bitcast(value, _WORD), sign), _REAL)

    return numba.types.float32(value), generate


@_strict
def round_halves(values: Float32) -> None:
    """Round `values` (n,) to half precision, in place."""
    for n in range(len(values)):
        values[n] = _rounded(values[n])


@_strict
def measure_rounding(values: Float32, exact: Float32, found: NDArray[np.float64]) -> None:
    """Round `values` (n,) to half precision, in place, and measure: see `pairs.Rounding`, whose
    fields `found` (10,) holds in order. `exact` (n,) are the same values in full precision."""
    for n in range(len(values)):
        value, full = values[n], exact[n]
        rounded = _rounded(value)
        values[n] = rounded
        size, full_size = abs(value), abs(full)
        full_is_finite = full_size < np.inf
        if full_is_finite:
            found[7] = max(found[7], full_size)
        if not size < np.inf:
            found[3] += 1
            found[8] += full_is_finite
            continue
        found[1] = max(found[1], size)
        if not abs(rounded) < np.inf:
            found[2] += 1
            found[8] += full_is_finite
            continue
        if size == 0:
            found[9] += 1
        elif size < 2.0**-14:
            found[4] += 1
        if full_is_finite:
            found[0] += 1
            found[5] += (np.float64(rounded) - value) ** 2
            found[6] += (np.float64(rounded) - full) ** 2


@_kernel
def multiply_halves(halves: UInt16, x: Float32, out: Float32, begin: int, end: int) -> None:
    """out[r] = row r · x for rows of bits of halves (rows, K)."""
    for row in range(begin, end):
        total = np.float32(0)
        for column in range(len(x)):
            total += _widen(halves[row, column]) * x[column]
        out[row] = total


@_strict
def expand_halves(halves: UInt16, out: Float32) -> None:
    """Widen bits of halves to float32, both of one shape (n,)."""
    for n in range(len(out)):
        out[n] = _widen(halves[n])


@_kernel
def multiply_few(x: Float32, y: Float32, out: Float32) -> None:
    """out = x · y for few rows: x (m, k), y (k, n), whose columns lie side by side in memory."""
    columns = y.T
    for column in range(len(columns)):
        values = columns[column]
        for n in range(len(x)):
            row, total = x[n], np.float32(0)
            for inner in range(len(row)):
                total += row[inner] * values[inner]
            out[n, column] = total


class Integers(NamedTuple):
    """What the bits of rows of integers mean: 4 or 8 `bits` a value, two's complement if
    `is_signed`; what they are scaled to is rounded to half precision if `rounds`."""

    bits: int
    is_signed: bool
    rounds: bool


@_strict
def _read_integers(row: UInt8, kind: Integers, integers: NDArray[np.int32]) -> None:
    sign = np.int32(1 << (kind.bits - 1) if kind.is_signed else 0)
    if kind.bits == 8:
        for column in range(len(integers)):
            integers[column] = (np.int32(row[column]) ^ sign) - sign
    else:
        for byte in range(len(integers) // 2):
            integers[2 * byte] = (np.int32(row[byte] & 15) ^ sign) - sign
            integers[2 * byte + 1] = (np.int32(row[byte] >> 4) ^ sign) - sign


@_strict
def expand_integers(
    packed: UInt8, kind: Integers, scale: Float32, offset: Float32, out: Float32, begin: int
) -> None:
    """scale · (integer − offset) of rows begin … to out (n, columns).

    `packed` (rows, bytes) holds the integers. `scale` and `offset` have one value per block; blocks
    divide rows and columns evenly.
    """
    per_row, per_column = len(packed) // len(scale), out.shape[1] // scale.shape[1]
    integers = np.empty(out.shape[1], np.int32)
    for n in range(len(out)):
        _read_integers(packed[begin + n], kind, integers)
        group, values = (begin + n) // per_row, out[n]
        for block in range(scale.shape[1]):
            factor, zero, first = scale[group, block], offset[group, block], block * per_column
            some, part = integers[first : first + per_column], values[first : first + per_column]
            for column in range(per_column):
                part[column] = (np.float32(some[column]) - zero) * factor
        if kind.rounds:
            for column in range(len(values)):
                values[column] = _rounded(values[column])
