"""Error feedback: each column takes up the errors of the columns before it.

For inputs x with M = mean x·xᵀ, an error E = W − Q of a matrix costs tr(E·M·Eᵀ) per token. With the
factorization M = C·Cᵀ, C upper triangular, this is ‖E·C‖², and column k of E·C is
C_kk · (E_k + Σ_{j<k} E_j · C_jk / C_kk). So each column is rounded not at its weights but at
W_k + Σ_{j<k} E_j · C_jk / C_kk: the update of GPTQ (Frantar et al. 2022) in the form of LDLQ
(Chee et al. 2023), which needs no inverse. The values it rounds to are fixed before: the entries of
optimal tables weighted by M's diagonal, or the grids of blocks. Columns come in falling order of
M's diagonal, so that the most important ones have all others left to take up their errors.

With few tokens per column M fits the calibration better than other texts. So M is shrunk towards
its diagonal in the basis in which the model was trained, with the share in `SHRINKAGES` that does
best on the half of the tokens that was held out. If none does better than the plain rounding of the
same values, nothing is fed back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.quant.blocks import quantize_blocks, to_float32
from export.quant.feedback_kernels import Block, round_to_grids, round_to_tables
from export.quant.kmeans import weighted_tables
from export.quant.recipe import QuantSpec
from export.quant.statistics import WHOLE, Statistics, diagonal_part
from export.quant.transpose import transposed
from export.quant.weights import BlockWeight, LutWeight, pack_indices

Float32 = NDArray[np.float32]

SHRINKAGES = (0.03, 0.1, 0.3, 1.0)
PLAIN = -1.0  # stands for a shrinkage: nothing is fed back
_DAMPING = 0.01  # of the mean of M's diagonal, added to it
_BLOCK = 128  # columns between two matrix products
_FACTOR_BLOCK = 256  # columns that are factorized together
_STRIP = 1024  # rows that are updated together
_TRIAL_ROWS = 128  # rows on which a shrinkage is tried
_ROWS_PER_TASK = 64


@dataclass(frozen=True, eq=False)
class Feedback:
    """Order of the columns, and how much each column takes up of the error of each one before it:
    (columns, columns), upper unit triangular, in that order; None if nothing is fed back."""

    order: NDArray[np.intp]
    coefficients: Float32 | None


def feedback_of(moments: Float32) -> Feedback:
    """The feedback for second moments (columns, columns), which are damped; see this module."""
    diagonal = moments.diagonal() + np.float32(_DAMPING * moments.diagonal().mean())
    order = np.argsort(-diagonal, kind="stable")
    matrix = np.take(moments, order, axis=0)
    del moments  # often the only reference: those of a wide layer take 0.6 GB
    for begin in range(0, len(matrix), _STRIP):
        strip = matrix[begin : begin + _STRIP]
        strip[:] = np.take(strip, order, axis=1)
    np.fill_diagonal(matrix, diagonal[order])
    factorize(matrix)
    matrix /= matrix.diagonal().copy()
    return Feedback(order, matrix)


def factorize(matrix: Float32) -> None:
    """Replace a positive definite matrix M by the upper triangular C with C · Cᵀ = M, in place.

    By blocks of columns, the last one first, so that nearly all is matrix products on all cores:
    numpy's own factorization of a wide layer's moments takes several times as long.
    """
    size = len(matrix)
    for end in range(size, 0, -_FACTOR_BLOCK):
        begin = max(end - _FACTOR_BLOCK, 0)
        panel = matrix[:end, begin:end]
        panel -= matrix[:end, end:] @ matrix[begin:end, end:].T
        corner, above = panel[begin:], panel[:begin]
        corner[:] = np.linalg.cholesky(corner[::-1, ::-1])[::-1, ::-1]
        inverse = np.linalg.inv(corner.astype(np.float64)).astype(np.float32)
        above[:] = above @ inverse.T
        matrix[begin:end, :begin] = 0


def _feedback(statistics: Statistics, part: int | None, shrinkage: float) -> Feedback:
    """The feedback by a part of the inputs, or by all."""
    if shrinkage == PLAIN:
        return Feedback(np.arange(len(statistics.parts[0])), None)

    def compute() -> Feedback:
        return feedback_of(statistics.shrunk(part, shrinkage))

    found: Feedback = statistics.once(("feedback", part, shrinkage), compute)
    return found


@dataclass(frozen=True, eq=False)
class _Levels:
    """The values that a matrix may take: tables by groups of rows, or grids by blocks."""

    spec: QuantSpec
    luts: Float32 | None = None
    grid: BlockWeight | None = None

    def some(self, rows: NDArray[np.intp]) -> _Levels:
        """Those of some rows, whole groups."""
        if self.luts is not None:
            groups = rows[:: self.spec.group_size] // self.spec.group_size
            return _Levels(self.spec, self.luts[groups])
        assert self.grid is not None
        offset = None if self.grid.offset is None else self.grid.offset[rows]
        return _Levels(
            self.spec,
            grid=BlockWeight(self.grid.q[rows], self.grid.scale[rows], offset, self.spec.bits),
        )

    def weight(self, chosen: NDArray[Any]) -> LutWeight | BlockWeight:
        """The weight of the chosen indices or integers (rows, columns)."""
        if self.luts is not None:
            rows, columns = chosen.shape
            packed = pack_indices(chosen, self.spec.bits)
            luts = self.luts.astype(np.float16)
            return LutWeight(packed, luts, self.spec.bits, self.spec.group_size, (rows, columns))
        assert self.grid is not None
        return BlockWeight(chosen, self.grid.scale, self.grid.offset, self.spec.bits)


def quantize_with_feedback(
    array: NDArray[Any],
    spec: QuantSpec,
    statistics: Statistics,
    *,
    name: str,
    threads: int | None = None,
    expected: float | None = None,
) -> tuple[LutWeight | BlockWeight, float]:
    """Quantize a matrix (rows, columns) as `spec` says; return it with the shrinkage chosen, or
    `PLAIN`.

    Of the `SHRINKAGES` only that which is `expected`, if one is, is compared with `PLAIN`. The
    result is the same for any number of `threads` (default: one per core).
    """
    values = to_float32(array)
    levels = _levels(values, spec, statistics, name, threads)
    shrinkage = _choose_shrinkage(values, levels, statistics, threads, expected)
    feedback = _feedback(statistics, WHOLE, shrinkage)
    chosen, _ = _round(values, levels, feedback, threads)
    return levels.weight(_restored(chosen, feedback.order)), shrinkage


def _levels(
    values: Float32, spec: QuantSpec, statistics: Statistics, name: str, threads: int | None
) -> _Levels:
    if spec.form == "lut":
        diagonal = statistics.diagonal()
        weights = diagonal + np.float32(_DAMPING) * diagonal.mean()
        group = spec.group_size
        tables = weighted_tables(
            values, weights, bits=spec.bits, group_size=group, name=name, threads=threads
        )
        return _Levels(spec, tables.astype(np.float32))
    return _Levels(spec, grid=quantize_blocks(values, spec=spec, name=name, threads=threads))


def trial_errors(
    values: Float32, spec: QuantSpec, statistics: Statistics, shrinkage: float, *, name: str
) -> Float32:
    """What `spec` would leave of some rows, whole groups, fed back by the first half of the inputs:
    value − level, (rows, columns)."""
    levels = _levels(values, spec, statistics, name, None)
    return _errors(values, levels, _feedback(statistics, 0, shrinkage), None)


def trial_rows(count: int, group: int) -> NDArray[np.intp]:
    """About `_TRIAL_ROWS` of `count` rows at equal distances, whole groups."""
    groups = -(-count // group)
    picked = np.unique(np.linspace(0, groups - 1, max(1, _TRIAL_ROWS // group)).astype(int))
    rows = (picked[:, None] * group + np.arange(group)).reshape(-1)
    return rows[rows < count]


def _choose_shrinkage(
    values: Float32,
    levels: _Levels,
    statistics: Statistics,
    threads: int | None,
    expected: float | None,
) -> float:
    """The shrinkage, or `PLAIN`, with which one half of the tokens gives the least error on the
    other half."""
    if not statistics.has_halves:
        return SHRINKAGES[1] if expected is None else expected
    held_out = statistics.second_moments(1)
    group = levels.spec.group_size if levels.luts is not None else 1
    rows = trial_rows(len(values), group)
    some, some_levels = np.ascontiguousarray(values[rows]), levels.some(rows)

    def loss(shrinkage: float) -> float:
        tried = shrinkage if shrinkage == PLAIN else min(1.0, 2 * shrinkage)
        errors = _errors(some, some_levels, _feedback(statistics, 0, tried), threads)
        return float(np.einsum("rc,rc->", errors @ held_out, errors, dtype=np.float64))

    if expected is not None:
        return expected if loss(expected) < loss(PLAIN) else PLAIN
    # Without a rotation, the moments of uncorrelated channels feed nothing back either.
    shrinkages = SHRINKAGES[:-1] if statistics.independent is diagonal_part else SHRINKAGES
    found, least = _descend(shrinkages, loss)
    return found if least < loss(PLAIN) else PLAIN


def _descend(values: Sequence[float], loss: Callable[[float], float]) -> tuple[float, float]:
    """The value of least loss, and that loss, which must fall up to it and rise after it.

    The search goes up from the second value, or else down: each trial costs a factorization.
    """
    at, least, step = 1, loss(values[1]), 1
    while True:
        if 0 <= at + step < len(values) and (other := loss(values[at + step])) < least:
            at, least = at + step, other
        elif step == 1 and at == 1:
            step = -1
        else:
            return values[at], least


def _round(
    values: Float32, levels: _Levels, feedback: Feedback, threads: int | None
) -> tuple[NDArray[Any], Float32]:
    """Choose indices or integers, and return them and the errors, value − level: (columns, rows)
    each, in the order of the feedback."""
    order, coefficients = feedback.order, feedback.coefficients
    columns, rows = values.T.shape
    ordered = np.take(transposed(values), order, axis=0)
    errors = np.empty_like(ordered)
    chosen = np.empty(ordered.shape, np.uint8 if levels.luts is not None else np.int8)
    rounds = _rounder(levels, order)
    workers = threads or os.cpu_count() or 1
    step = _ROWS_PER_TASK * max(1, rows // (4 * workers * _ROWS_PER_TASK))
    with ThreadPoolExecutor(workers) as pool:
        for begin in range(0, columns, _BLOCK):
            end = min(begin + _BLOCK, columns)
            span, inner = slice(begin, end), np.zeros((end - begin,) * 2, np.float32)
            targets = ordered[span].copy()
            if coefficients is not None:
                targets += coefficients[:begin, span].T @ errors[:begin]
                inner = np.ascontiguousarray(coefficients[span, span])
            block = Block(targets, ordered[span], inner, errors[span])
            run = rounds(block, span, chosen[span])
            firsts = range(0, rows, step)
            list(pool.map(run, ((first, min(first + step, rows)) for first in firsts)))
    return chosen, errors


def _errors(values: Float32, levels: _Levels, feedback: Feedback, threads: int | None) -> Float32:
    """What rounding leaves: value − level, (rows, columns)."""
    _, ordered = _round(values, levels, feedback, threads)
    errors: Float32 = _restored(ordered, feedback.order)
    return errors


def _restored(ordered: NDArray[Any], order: NDArray[np.intp]) -> NDArray[Any]:
    """(rows, columns) as before `_round`, from (columns, rows) in `order`."""
    return transposed(np.take(ordered, np.argsort(order), axis=0))


def _rounder(
    levels: _Levels, order: NDArray[np.intp]
) -> Callable[[Block, slice, NDArray[Any]], Callable[[tuple[int, int]], None]]:
    """The kernel of a form: for a block of columns and the integers to be written, a function of
    the first row and the row after the last."""
    group, bits = levels.spec.group_size, levels.spec.bits
    if (luts := levels.luts) is not None:
        return lambda block, _, chosen: partial(round_to_tables, block, luts, group, chosen)
    grid = levels.grid
    assert grid is not None
    scales = np.ascontiguousarray(grid.scale.T, np.float32)
    offsets = np.zeros_like(scales) if grid.offset is None else np.ascontiguousarray(grid.offset.T)

    def grids(block: Block, span: slice, chosen: NDArray[Any]) -> Callable[[tuple[int, int]], None]:
        at = order[span] // group
        return partial(round_to_grids, block, scales[at], offsets[at], bits, chosen)

    return grids
