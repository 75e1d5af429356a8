"""Compiled kernels of the palettizer: 16-bit codes of row groups in, tables and packed indices out.

They work on bit patterns and float64. Callers validate arguments and raise errors. All kernels
share this file because numba's cache notices a change only in a kernel's own file.

Exact 1-D k-means cuts the n sorted distinct values into K intervals of least total cost; the cost
of [i, j) is the weighted squared deviation of values i … j - 1 from their mean. This cost is
concave Monge, hence (a) for a price paid per interval the best cuts are found in O(n log n),
(b) the least total cost is convex in K, so that some price gives K intervals, and (c) if a price
has two solutions, with fewer and with more than K intervals, splicing them gives one with K
(Aggarwal, Schieber, Tokuyama: Finding a minimum-weight k-link path, 1994).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from export.quant.checks import FLOAT16_MAX

F = TypeVar("F", bound=Callable[..., Any])
UInt8 = NDArray[np.uint8]
UInt16 = NDArray[np.uint16]
UInt32 = NDArray[np.uint32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

CODES = 1 << 16
_SIGN = 1 << 15
_BLOCK = 64  # codes that are skipped together if none of them occurs
_GUESSES = 6  # prices extrapolated from the number of intervals before only chords are used
_COARSE = 16  # candidate cuts per interval while the first price is estimated


class Sums(NamedTuple):
    """Prefix sums, (n + 1,) each: entry j minus entry i is the sum over the values i … j - 1."""

    weight: Float64
    first: Float64  # weight · value
    second: Float64  # weight · value²


class Cuts(NamedTuple):
    """The cheapest cuts of every prefix of the values, (n + 1,) each."""

    best: Float64  # least cost, prices included
    last: Int64  # where its last interval begins


def _kernel(function: F) -> F:
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


@_kernel
def _cost(sums: Sums, begin: int, end: int) -> float:
    first = sums.first[end] - sums.first[begin]
    weight = sums.weight[end] - sums.weight[begin]
    return float((sums.second[end] - sums.second[begin]) - first * first / weight)


@_kernel
def _offer(sums: Sums, cuts: Cuts, low: int, high: int, end: int, price: float) -> None:
    """Let the intervals [low, end) … [high, end) compete to be the last one before `end`."""
    best, last = cuts.best[end], cuts.last[end]
    for begin in range(low, high + 1):
        total = cuts.best[begin] + (_cost(sums, begin, end) + price)
        if total < best:
            best, last = total, begin
    cuts.best[end], cuts.last[end] = best, last


@_kernel
def _cut_at_price(sums: Sums, price: float) -> Int64:
    """Return the ends 0, …, n of the intervals that cost least when each costs `price` more.

    Monotone search that halves a span: the cut of its middle lies between those of its ends; once
    the left half is complete, its own places compete for the right end, and the right half follows.
    """
    n = sums.weight.size - 1
    cuts = Cuts(np.full(n + 1, np.inf), np.zeros(n + 1, np.int64))
    cuts.best[0] = 0.0
    _offer(sums, cuts, 0, 0, n, price)
    spans = np.empty((64, 3), np.int64)  # begin, end, whether the left half is complete
    spans[0] = 0, n, 0
    top = 0
    while top >= 0:
        begin, end, half = spans[top]
        middle = (begin + end) // 2
        if end - begin == 1:
            top -= 1
        elif half == 0:
            _offer(sums, cuts, cuts.last[begin], cuts.last[end], middle, price)
            spans[top, 2] = 1
            top += 1
            spans[top] = begin, middle, 0
        else:
            low = max(begin + 1, cuts.last[middle])
            # `best` rises with its index: if one more interval costs too much at `low`, all do.
            if cuts.best[low] + price < cuts.best[end]:
                _offer(sums, cuts, low, middle, end, price)
            spans[top] = middle, end, 0
    return _trace(cuts.last)


@_kernel
def _trace(last: Int64) -> Int64:
    count, end = 0, last.size - 1
    while end > 0:
        end = last[end]
        count += 1
    ends = np.empty(count + 1, np.int64)
    end = last.size - 1
    for place in range(count, -1, -1):
        ends[place] = end
        end = last[end]
    return ends


@_kernel
def _total(sums: Sums, ends: Int64) -> float:
    total = 0.0
    for place in range(ends.size - 1):
        total += _cost(sums, ends[place], ends[place + 1])
    return total


@_kernel
def _splice(few: Int64, many: Int64, clusters: int) -> Int64:
    """Join the head of `many` to the tail of `few` where an interval of `few` holds one of `many`.

    Exchanging the tails there does not raise the summed cost, so both results stay optimal.
    """
    shift = clusters - (few.size - 1)
    place = 0
    while many[place + shift + 1] > few[place + 1]:
        place += 1
    ends = np.empty(clusters + 1, np.int64)
    ends[: place + shift + 1] = many[: place + shift + 1]
    ends[place + shift + 1 :] = few[place + 1 :]
    return ends


@_kernel
def _cut(sums: Sums, clusters: int, price: float) -> tuple[Int64, float]:
    """Return the ends of `clusters` intervals of least total cost, and a price that gives them.

    The price is searched between two solutions, first by `intervals ~ price**(-1/3)` (Panter and
    Dite), then by the chord of the two, which finds one between them or proves there is none.
    """
    n = sums.weight.size - 1
    few, many = np.array([0, n]), np.arange(n + 1)
    low, high = 0.0, np.inf  # the prices of `many` and `few`
    guesses = 0
    while True:
        guessed = guesses < _GUESSES and low < price < high
        guesses += 1
        if not guessed:
            price = (_total(sums, few) - _total(sums, many)) / (many.size - few.size)
        ends = _cut_at_price(sums, price)
        if ends.size - 1 == clusters:
            return ends, price
        if not guessed and not few.size < ends.size < many.size:
            return _splice(few, many, clusters), price
        if ends.size - 1 < clusters:
            few, high = ends, price
        else:
            many, low = ends, price
        price *= ((ends.size - 1) / clusters) ** 3


@_kernel
def _every(values: Float64, stride: int) -> Float64:
    """Every stride-th entry and the last."""
    n = values.size - 1
    picked = np.empty(-(-n // stride) + 1, np.float64)
    for place in range(picked.size):
        picked[place] = values[min(place * stride, n)]
    return picked


@_kernel
def cluster(values: Float64, counts: Float64, clusters: int) -> Int64:
    """Cut n > clusters sorted distinct values into intervals of least squared error.

    Returns their ends, 0 first and n last, (clusters + 1,).
    """
    sums = _accumulate(values, counts)
    n = values.size
    price = 2.0 * _cost(sums, 0, n) / clusters**3
    stride = n // (_COARSE * clusters)
    if stride > 1:
        coarse = Sums(
            _every(sums.weight, stride), _every(sums.first, stride), _every(sums.second, stride)
        )
        _, price = _cut(coarse, clusters, price)
    ends, _ = _cut(sums, clusters, price)
    return ends


@_kernel
def _accumulate(values: Float64, counts: Float64) -> Sums:
    """Sum from zero outwards, so that an outlier does not cost the small values their digits."""
    n = values.size
    origin = np.searchsorted(values, 0.0)
    sums = Sums(np.zeros(n + 1), np.zeros(n + 1), np.zeros(n + 1))
    for i in range(origin, n):
        sums.weight[i + 1] = sums.weight[i] + counts[i]
        sums.first[i + 1] = sums.first[i] + counts[i] * values[i]
        sums.second[i + 1] = sums.second[i] + counts[i] * values[i] * values[i]
    for i in range(origin - 1, -1, -1):
        sums.weight[i] = sums.weight[i + 1] - counts[i]
        sums.first[i] = sums.first[i + 1] - counts[i] * values[i]
        sums.second[i] = sums.second[i + 1] - counts[i] * values[i] * values[i]
    return sums


@_kernel
def _round_to_float16(value: float) -> float:
    """Round half to even to the nearest float16, |value| ≤ 65504; never returns -0."""
    _, exponent = math.frexp(value)
    step = math.ldexp(1.0, max(exponent - 11, -24))
    return float(np.rint(value / step) * step + 0.0)


@_kernel
def _fill_lut(values: Float64, counts: Float64, lut: Float64) -> int:
    """Write the table, unused entries repeating the last; return how many entries are used."""
    n = values.size
    used = min(n, lut.size)
    ends = np.arange(n + 1) if n <= lut.size else cluster(values, counts, lut.size)
    for place in range(used):
        weight = first = 0.0
        for i in range(ends[place], ends[place + 1]):
            weight += counts[i]
            first += counts[i] * values[i]
        lut[place] = _round_to_float16(first / weight)
    lut[used:] = lut[used - 1]
    return used


@_kernel
def _occurs(histogram: UInt32, block: int) -> bool:
    merged = np.uint32(0)
    for code in range(block, block + _BLOCK):
        merged |= histogram[code]
    return bool(merged != 0)


@_kernel
def _collect(histogram: UInt32, codes: UInt16) -> int:
    """List the codes that occur in the order of their values; return how many."""
    histogram[0] += histogram[_SIGN]  # -0 is +0
    histogram[_SIGN] = 0
    count = 0
    for block in range(CODES - _BLOCK, _SIGN - 1, -_BLOCK):
        if _occurs(histogram, block):
            for code in range(block + _BLOCK - 1, block - 1, -1):
                if histogram[code] != 0:
                    codes[count] = code
                    count += 1
    for block in range(0, _SIGN, _BLOCK):
        if _occurs(histogram, block):
            for code in range(block, block + _BLOCK):
                if histogram[code] != 0:
                    codes[count] = code
                    count += 1
    return count


@_kernel
def _index_codes(values: Float64, codes: UInt16, lut: Float64, index_of: UInt8) -> None:
    """Assign each code the nearest entry of the ascending table."""
    index = 0
    for i in range(codes.size):
        while index + 1 < lut.size and lut[index + 1] - values[i] <= values[i] - lut[index]:
            index += 1
        index_of[codes[i]] = index
    index_of[_SIGN] = index_of[0]


@_kernel
def _pack(codes: UInt16, index_of: UInt8, width: int, packed: UInt8) -> None:
    """Pack the codes' indices into zeroed bytes, `width` bits each from the lowest bit on."""
    words = codes.size // 8  # eight indices fill `width` bytes
    for word in range(words):
        bits = np.uint64(0)
        for place in range(8):
            index = np.uint64(index_of[codes[8 * word + place]])
            bits |= index << np.uint64(width * place)
        for byte in range(width):
            packed[word * width + byte] = bits & np.uint64(255)
            bits >>= np.uint64(8)
    for place in range(8 * words, codes.size):
        byte, shift = divmod(place * width, 8)
        spread = np.uint32(index_of[codes[place]]) << np.uint32(shift)
        packed[byte] |= spread & np.uint32(255)
        if shift + width > 8:
            packed[byte + 1] |= spread >> np.uint32(8)


@_kernel
def _take(
    codes: UInt16, code_values: Float64, amounts: UInt32 | Float64
) -> tuple[Float64, Float64]:
    """Return values and amounts of the codes that occur, and set these amounts to zero."""
    values, taken = np.empty(codes.size), np.empty(codes.size)
    for i in range(codes.size):
        values[i] = code_values[codes[i]]
        taken[i] = amounts[codes[i]]
        amounts[codes[i]] = 0
    return values, taken


@_kernel
def weigh_groups(
    codes: UInt16, code_values: Float64, weights: Float64, group_size: int, luts: Float64
) -> int:
    """Find tables of least weighted squared error for consecutive groups of rows of codes.

    `weights` (columns,) > 0 are the weights of a row's values; a group is `group_size` rows, the
    last may be smaller. Writes luts (groups, 2**bits). Returns -1, or the first group with a value
    outside float16, where it stops.
    """
    columns = weights.size
    size = group_size * columns
    histogram = np.zeros(CODES, np.uint32)
    mass = np.zeros(CODES)
    occurring = np.empty(CODES, np.uint16)
    for group in range(luts.shape[0]):
        part = codes[group * size : (group + 1) * size]
        for begin in range(0, part.size, columns):
            for column in range(columns):
                code = part[begin + column]
                histogram[code] += 1
                mass[code] += weights[column]
        mass[0] += mass[_SIGN]
        mass[_SIGN] = 0
        n = _collect(histogram, occurring)
        values, _ = _take(occurring[:n], code_values, histogram)
        _, masses = _take(occurring[:n], code_values, mass)
        if not (abs(values[0]) <= FLOAT16_MAX and abs(values[n - 1]) <= FLOAT16_MAX):
            return group
        _fill_lut(values, masses, luts[group])
    return -1


@_kernel
def palettize_groups(
    codes: UInt16, code_values: Float64, size: int, luts: Float64, width: int, packed: UInt8
) -> int:
    """Palettize consecutive groups of `size` codes (the last may be shorter).

    Writes luts (groups, 2**bits) and packed indices, `width` bits each; size * width is a multiple
    of 8. Returns -1, or the first group with a value outside float16, where it stops.
    """
    histogram = np.zeros(CODES, np.uint32)
    index_of = np.zeros(CODES, np.uint8)
    occurring = np.empty(CODES, np.uint16)
    for group in range(luts.shape[0]):
        part = codes[group * size : (group + 1) * size]
        for code in part:
            histogram[code] += 1
        n = _collect(histogram, occurring)
        values, counts = _take(occurring[:n], code_values, histogram)
        # Infinities and NaN sort outermost.
        if not (abs(values[0]) <= FLOAT16_MAX and abs(values[n - 1]) <= FLOAT16_MAX):
            return group
        used = _fill_lut(values, counts, luts[group])
        _index_codes(values, occurring[:n], luts[group, :used], index_of)
        begin = group * size * width // 8
        _pack(part, index_of, width, packed[begin : begin + -(-part.size * width // 8)])
    return -1
