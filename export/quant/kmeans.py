"""Palettization: the optimal table of 2**bits values for every group of rows (exact 1-D k-means).

A matrix goes in, a LutWeight comes out; rows of padding influence no table. The recipe decides
which weights are palettized, and with how many bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.quant.checks import check_bits, check_finite, check_groups, check_matrix
from export.quant.kmeans_kernels import CODES, palettize_groups, weigh_groups
from export.quant.weights import LutWeight, pack_indices, packed_size

_VALUES_PER_TASK = 1 << 22
_TASKS_PER_THREAD = 4


def palettize(
    values: NDArray[Any],
    *,
    bits: int,
    group_size: int,
    name: str,
    padded_rows: int | None = None,
    threads: int | None = None,
) -> LutWeight:
    """Find the tables of least squared error and the index of the nearest entry for each value.

    `values` (r, columns) is bfloat16, float16 or float32; float32 is rounded to float16 first.
    `group_size` consecutive rows share a table, whose entries are cluster means rounded to float16.
    `padded_rows` ≥ r appends rows of index 0 that influence no table. The result is the same for
    any number of `threads` (default: one per core). Raises `InputError`, which names the tensor,
    for NaN, infinity or values beyond float16, or if the groups do not divide the rows.
    """
    rows = values.shape[0] if padded_rows is None else padded_rows
    check_matrix(values, rows, name)
    check_bits(bits, 1, name)
    check_groups(rows, group_size, name)
    columns = values.shape[1]
    size = group_size * columns
    width = bits if size % 8 == 0 else 8  # groups that would share a byte are packed afterwards
    luts = np.zeros((rows // group_size, 1 << bits))
    packed = np.zeros(packed_size(rows * columns, width), np.uint8)

    def run(first: int, last: int) -> int:
        codes, code_values = _codes(values[first * group_size : last * group_size])
        span = packed[first * size * width // 8 : last * size * width // 8]
        return int(palettize_groups(codes, code_values, size, luts[first:last], width, span))

    _run_groups(run, values, group_size, threads or os.cpu_count() or 1, name)
    if width != bits:
        packed = pack_indices(packed, bits)
    return LutWeight(packed, luts.astype(np.float16), bits, group_size, (rows, columns))


def weighted_tables(
    values: NDArray[Any],
    weights: NDArray[np.floating[Any]],
    *,
    bits: int,
    group_size: int,
    name: str,
    threads: int | None = None,
) -> NDArray[np.float16]:
    """Find the tables of least weighted squared error, (groups, 2**bits), ascending.

    As `palettize`, but an error in column j counts `weights[j]` > 0 times, and no index is chosen.
    """
    check_matrix(values, values.shape[0], name)
    check_bits(bits, 1, name)
    groups = -(-values.shape[0] // group_size)
    luts = np.zeros((groups, 1 << bits))
    columns = np.ascontiguousarray(weights, np.float64)

    def run(first: int, last: int) -> int:
        codes, code_values = _codes(values[first * group_size : last * group_size])
        return int(weigh_groups(codes, code_values, columns, group_size, luts[first:last]))

    _run_groups(run, values, group_size, threads or os.cpu_count() or 1, name)
    return luts.astype(np.float16)


def _run_groups(
    run: Callable[[int, int], int],
    values: NDArray[Any],
    group_size: int,
    threads: int,
    name: str,
) -> None:
    """Call run(first, last) on ranges of groups that cover the rows of `values`."""
    groups = -(-values.shape[0] // group_size)
    limit = max(1, _VALUES_PER_TASK // (group_size * values.shape[1]))
    step = max(1, min(limit, groups // (threads * _TASKS_PER_THREAD)))
    firsts = range(0, groups, step)
    lasts = [min(first + step, groups) for first in firsts]
    with ThreadPoolExecutor(threads) as pool:
        for first, bad in zip(firsts, pool.map(run, firsts, lasts), strict=True):
            if bad >= 0:
                begin = (first + bad) * group_size
                check_finite(values[begin : begin + group_size], name)
                raise AssertionError(f"{name}: group {first + bad} was refused without a reason")


def _codes(values: NDArray[Any]) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """The values' bit patterns, flat in C order, and the value of each of the 65536 patterns."""
    if values.dtype == np.float32:
        with np.errstate(over="ignore"):  # becomes infinity, which is refused
            values = values.astype(np.float16)
    return np.ascontiguousarray(values).view(np.uint16).reshape(-1), _code_values(values.dtype)


@cache
def _code_values(dtype: np.dtype[Any]) -> NDArray[np.float64]:
    patterns = np.arange(CODES, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):
        return patterns.astype(np.float32).astype(np.float64)
