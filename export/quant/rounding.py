"""Rounding of a matrix to given levels, value after value, errors fed back to those that follow.

`export.quant.feedback` says which share of an error each value takes up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.quant.feedback_kernels import (
    Block,
    Grids,
    Tables,
    Tile,
    round_tile_to_grids,
    round_tile_to_tables,
    round_to_grids,
    round_to_tables,
)
from export.quant.recipe import QuantSpec
from export.quant.transpose import transposed
from export.quant.weights import BlockWeight, LutWeight, pack_indices

Float32 = NDArray[np.float32]

_BLOCK = 128  # columns, and with feedback between rows also rows, between two matrix products
_ROWS_PER_TASK = 64


@dataclass(frozen=True, eq=False)
class Feedback:
    """Order of the columns (or rows), and how much each takes up of the error of each one before
    it: (columns, columns), upper unit triangular, in that order; None if nothing is fed back."""

    order: NDArray[np.intp]
    coefficients: Float32 | None


@dataclass(frozen=True, eq=False)
class Levels:
    """The values that a matrix may take: tables by groups of rows, or grids by blocks."""

    spec: QuantSpec
    luts: Float32 | None = None
    grid: BlockWeight | None = None

    def some(self, rows: NDArray[np.intp]) -> Levels:
        """Those of some rows, whole groups."""
        if self.luts is not None:
            groups = rows[:: self.spec.group_size] // self.spec.group_size
            return Levels(self.spec, self.luts[groups])
        assert self.grid is not None
        offset = None if self.grid.offset is None else self.grid.offset[rows]
        return Levels(
            self.spec,
            grid=BlockWeight(self.grid.q[rows], self.grid.scale[rows], offset, self.spec.bits),
        )

    def grids(
        self, columns: NDArray[np.intp], rows: NDArray[np.intp] | None = None
    ) -> tuple[Float32, Float32, int]:
        """Scales and offsets of grids (columns, rows) for some columns, and bits."""
        at = columns // self.spec.group_size
        places = at if rows is None else np.ix_(at, rows)
        scales, offsets = (one[places] for one in self._by_block)
        return scales, offsets, self.spec.bits

    @cached_property
    def _by_block(self) -> tuple[Float32, Float32]:
        """Scales and offsets (blocks, rows)."""
        assert self.grid is not None
        scales = np.ascontiguousarray(self.grid.scale.T, np.float32)
        if self.grid.offset is None:
            return scales, np.zeros_like(scales)
        return scales, np.ascontiguousarray(self.grid.offset.T, np.float32)

    def weight(self, chosen: NDArray[Any]) -> LutWeight | BlockWeight:
        """The weight of the chosen indices or integers (rows, columns)."""
        if self.luts is not None:
            rows, columns = chosen.shape
            packed = pack_indices(chosen, self.spec.bits)
            luts = self.luts.astype(np.float16)
            return LutWeight(packed, luts, self.spec.bits, self.spec.group_size, (rows, columns))
        assert self.grid is not None
        return BlockWeight(chosen, self.grid.scale, self.grid.offset, self.spec.bits)


@dataclass(frozen=True, eq=False)
class Rounded:
    """Indices or integers, and errors, value − level: (columns, rows) each, in the order of the
    feedback, which stands in `columns` and, if errors are fed back between them, in `rows`."""

    chosen: NDArray[Any]
    errors: Float32
    columns: NDArray[np.intp]
    rows: NDArray[np.intp] | None = None

    def restored(self, ordered: NDArray[Any]) -> NDArray[Any]:
        """(rows, columns) as they were given, from one of the two arrays."""
        if self.rows is not None:
            ordered = np.take(ordered, np.argsort(self.rows), axis=1)
        return transposed(np.take(ordered, np.argsort(self.columns), axis=0))


def round_to_levels(
    values: Float32,
    levels: Levels,
    feedback: Feedback,
    panels: Sequence[Feedback] = (),
    threads: int | None = None,
) -> Rounded:
    """Round values (rows, columns), column after column.

    With `panels`, errors are also fed back from row to row, within as many consecutive rows as each
    panel has.
    """
    rows = _order_of(panels) if panels else None
    ordered = np.take(transposed(values), feedback.order, axis=0)
    ordered = ordered if rows is None else np.take(ordered, rows, axis=1)
    chosen = np.empty(ordered.shape, np.uint8 if levels.luts is not None else np.int8)
    rounded = Rounded(chosen, np.empty_like(ordered), feedback.order, rows)
    with ThreadPoolExecutor(workers := threads or os.cpu_count() or 1) as pool:
        for begin in range(0, len(ordered), _BLOCK):
            span = slice(begin, min(begin + _BLOCK, len(ordered)))
            inner, arriving = np.zeros((span.stop - begin,) * 2, np.float32), None
            if (coefficients := feedback.coefficients) is not None:
                inner = np.ascontiguousarray(coefficients[span, span])
                arriving = coefficients[:begin, span].T @ rounded.errors[:begin]
            if panels:
                tiles = _Tiles(ordered[span], arriving, inner, rounded, span, levels)
                tiles.round(panels, pool)
                continue
            targets = ordered[span].copy()
            if arriving is not None:
                targets += arriving
            block = Block(targets, ordered[span], inner, rounded.errors[span])
            _round_block(block, levels, rounded, span, pool, workers)
    return rounded


def _order_of(panels: Sequence[Feedback]) -> NDArray[np.intp]:
    firsts = np.cumsum([0, *(len(panel.order) for panel in panels)])
    return np.concatenate(
        [first + panel.order for first, panel in zip(firsts, panels, strict=False)]
    )


def _round_block(
    block: Block,
    levels: Levels,
    rounded: Rounded,
    span: slice,
    pool: ThreadPoolExecutor,
    workers: int,
) -> None:
    """Round a block of columns; rows are independent of one another."""
    rows, chosen = block.values.shape[1], rounded.chosen[span]
    step = _ROWS_PER_TASK * max(1, rows // (4 * workers * _ROWS_PER_TASK))
    if levels.luts is not None:
        run = partial(round_to_tables, block, levels.luts, levels.spec.group_size, chosen)
    else:
        run = partial(round_to_grids, block, *levels.grids(rounded.columns[span]), chosen)
    firsts = range(0, rows, step)
    list(pool.map(run, ((first, min(first + step, rows)) for first in firsts)))


@dataclass(frozen=True, eq=False)
class _Tiles:
    """A block of columns whose rows pass errors on; see `Tile`."""

    values: Float32
    arriving: Float32 | None
    inner: Float32
    rounded: Rounded
    span: slice
    levels: Levels

    def round(self, panels: Sequence[Feedback], pool: ThreadPoolExecutor) -> None:
        """Round all rows: the first ones of every panel at the same time, then those that follow
        them."""
        arriving = np.zeros_like(self.values) if self.arriving is None else self.arriving
        passed = np.empty_like(self.values)
        ends = np.cumsum([len(panel.order) for panel in panels]).tolist()
        for first in range(0, max(len(panel.order) for panel in panels), _BLOCK):
            tasks = []
            for panel, end in zip(panels, ends, strict=True):
                begin = end - len(panel.order)
                rows = slice(begin + first, min(begin + first + _BLOCK, end))
                if rows.start < end:
                    assert panel.coefficients is not None
                    here = slice(first, rows.stop - begin)
                    above = passed[:, begin : rows.start] @ panel.coefficients[:first, here]
                    between = np.ascontiguousarray(panel.coefficients[here, here])
                    tasks.append(pool.submit(self._round, rows, arriving, above, between, passed))
            for task in tasks:
                task.result()

    def _round(
        self, rows: slice, arriving: Float32, above: Float32, between: Float32, passed: Float32
    ) -> None:
        errors, chosen = self.rounded.errors[self.span, rows], self.rounded.chosen[self.span, rows]
        own = np.ascontiguousarray(arriving[:, rows])
        tile = Tile(self.values[:, rows], own, above, self.inner, between, errors, passed[:, rows])
        assert self.rounded.rows is not None
        numbers = self.rounded.rows[rows]
        if self.levels.luts is not None:
            tables = Tables(self.levels.luts[numbers // self.levels.spec.group_size])
            round_tile_to_tables(tile, tables, chosen)
            return
        scales, offsets, bits = self.levels.grids(self.rounded.columns[self.span], numbers)
        round_tile_to_grids(tile, Grids(scales, offsets, bits), chosen)
