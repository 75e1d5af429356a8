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


_LANES = 64  # rows that are rounded together: whole vectors, so that no row is computed otherwise


class Block(NamedTuple):
    """Some columns, one after the other in the order in which they are rounded; rows lie side by
    side.

    `targets` (width, rows) are the values with the errors of earlier blocks fed back, `values`
    (width, rows) the weights themselves; `errors` (width, rows), value − level, are written.
    `coefficients` (width, width) is upper unit triangular. All are contiguous.
    """

    targets: Float32
    values: Float32
    coefficients: Float32
    errors: Float32


class Tile(NamedTuple):
    """Some columns of some rows: within a column one row is rounded after the other.

    Earlier blocks of columns feed `arriving` (width, rows) to the `values` (width, rows), and
    earlier rows `above` (width, rows). `coefficients` (width, width) and `between` (rows, rows) are
    upper unit triangular. Errors, value − level, are written, and what rows pass on to those below
    them: an error with all that the columns before have fed to its place. All are (width, rows);
    `arriving` is used up.
    """

    values: Float32
    arriving: Float32
    above: Float32
    coefficients: Float32
    between: Float32
    errors: Float32
    passed: Float32


class Tables(NamedTuple):
    """The table of each row, ascending: (rows, entries)."""

    luts: Float32


class Grids(NamedTuple):
    """The levels scale · q + offset of each value, (width, rows) each, for integers of some
    bits."""

    scales: Float32
    offsets: Float32
    bits: int


def _kernel(function: F) -> F:
    decorate = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
    return cast(F, decorate(function))


@_kernel
def round_to_tables(
    block: Block,
    luts: Float32,
    group_size: int,
    indices: NDArray[np.uint8],
    rows: tuple[int, int],
) -> None:
    """Choose the table entry nearest to each target, and pass its error on to the next columns.

    Rows 0 … group_size − 1 use luts[0], and so on; tables ascend. Does `rows`, from the first to
    before the last, and writes `indices` (width, rows).
    """
    width, middle_count = len(block.coefficients), luts.shape[1] - 1
    targets, errors = np.zeros((width, _LANES), np.float32), np.zeros(_LANES, np.float32)
    middles, places = np.zeros((middle_count, _LANES), np.float32), np.zeros(_LANES, np.int32)
    for begin in range(rows[0], rows[1], _LANES):
        count = min(_LANES, rows[1] - begin)
        _load(block.targets, begin, count, targets)
        for lane in range(count):
            table = luts[(begin + lane) // group_size]
            for place in range(middle_count):
                middles[place, lane] = np.float32(0.5) * (table[place] + table[place + 1])
        for column in range(width):
            _find(targets[column], middles, places)
            for lane in range(count):
                row = begin + lane
                indices[column, row] = places[lane]
                level = luts[row // group_size, places[lane]]
                errors[lane] = block.values[column, row] - level
                block.errors[column, row] = errors[lane]
            _feed(targets, errors, block.coefficients, column)


@_kernel
def round_to_grids(
    block: Block,
    scales: Float32,
    offsets: Float32,
    bits: int,
    q: NDArray[np.int8],
    rows: tuple[int, int],
) -> None:
    """Choose the integer whose value, scale · q + offset, is nearest to each target.

    As `round_to_tables`, with one scale and one offset per value, (width, rows).
    """
    low, high = np.float32(-(1 << (bits - 1))), np.float32((1 << (bits - 1)) - 1)
    width = len(block.coefficients)
    targets, errors = np.zeros((width, _LANES), np.float32), np.zeros(_LANES, np.float32)
    for begin in range(rows[0], rows[1], _LANES):
        count = min(_LANES, rows[1] - begin)
        _load(block.targets, begin, count, targets)
        for column in range(width):
            for lane in range(count):
                row = begin + lane
                scale, offset = scales[column, row], offsets[column, row]
                level = min(max(np.rint((targets[column, lane] - offset) / scale), low), high)
                q[column, row] = np.int8(level)
                errors[lane] = block.values[column, row] - (scale * level + offset)
                block.errors[column, row] = errors[lane]
            _feed(targets, errors, block.coefficients, column)


@_kernel
def _load(targets: Float32, begin: int, count: int, lanes: Float32) -> None:
    for column in range(len(lanes)):
        for lane in range(count):
            lanes[column, lane] = targets[column, begin + lane]


# The compiler makes vector instructions of loops over lengths that it does not know.


@_kernel
def _find(target: Float32, middles: Float32, places: NDArray[np.int32]) -> None:
    """Count the middles (count, lanes) between table entries that are less than each target."""
    lanes = len(target)
    places[:] = 0
    for place in range(len(middles)):
        for lane in range(lanes):
            places[lane] += np.int32(target[lane] > middles[place, lane])


@_kernel
def _feed(targets: Float32, errors: Float32, coefficients: Float32, column: int) -> None:
    """Add a column's errors to the targets of the columns after it."""
    lanes = targets.shape[1]
    for later in range(column + 1, len(targets)):
        share = coefficients[column, later]
        for lane in range(lanes):
            targets[later, lane] += errors[lane] * share


@_kernel
def _choose_entry(tables: Tables, _: int, row: int, target: float) -> tuple[int, float]:
    """The place of the entry nearest to a target, and the entry."""
    table, place = tables.luts[row], 0
    for n in range(len(table) - 1):
        place += int(target > np.float32(0.5) * (table[n] + table[n + 1]))
    return place, table[place]


@_kernel
def _choose_step(grids: Grids, column: int, row: int, target: float) -> tuple[int, float]:
    """The integer whose level is nearest to a target, and the level."""
    low, high = np.float32(-(1 << (grids.bits - 1))), np.float32((1 << (grids.bits - 1)) - 1)
    scale, offset = grids.scales[column, row], grids.offsets[column, row]
    step = min(max(np.rint((target - offset) / scale), low), high)
    return int(step), scale * step + offset


def _rounds_tiles(choose: Callable[..., tuple[int, float]]) -> Callable[..., None]:
    """The kernel that rounds a `Tile` to the levels among which `choose` does."""

    @_kernel
    def round_tile(tile: Tile, levels: Any, chosen: NDArray[Any]) -> None:
        width, rows = tile.values.shape
        above = np.zeros(rows, np.float32)
        for column in range(width):
            above[:] = tile.above[column]
            for row in range(rows):
                value, arriving = tile.values[column, row], tile.arriving[column, row]
                place, level = choose(levels, column, row, value + (arriving + above[row]))
                error = np.float32(value - level)
                chosen[column, row] = place
                tile.errors[column, row] = error
                passed = error + arriving
                tile.passed[column, row] = passed
                for later in range(row + 1, rows):
                    above[later] += tile.between[row, later] * passed
            for later in range(column + 1, width):
                share = tile.coefficients[column, later]
                for row in range(rows):
                    tile.arriving[later, row] += tile.errors[column, row] * share

    return round_tile


round_tile_to_tables = _rounds_tiles(_choose_entry)
round_tile_to_grids = _rounds_tiles(_choose_step)
