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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.quant.blocks import quantize_blocks, to_float32
from export.quant.feedback_kernels import Block, round_to_grids, round_to_tables
from export.quant.kmeans import weighted_tables
from export.quant.recipe import QuantSpec
from export.quant.statistics import Statistics, diagonal_part
from export.quant.weights import BlockWeight, LutWeight, pack_indices

Float32 = NDArray[np.float32]

SHRINKAGES = (0.03, 0.1, 0.3, 1.0)
PLAIN = -1.0  # stands for a shrinkage: nothing is fed back
_DAMPING = 0.01  # of the mean of M's diagonal, added to it
_BLOCK = 128  # columns between two matrix products
_FACTOR_BLOCK = 512  # columns that are factorized together
_STRIP = 1024  # rows of the rest that are updated together
_TRIAL_ROWS = 128  # rows on which a shrinkage is tried


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
    matrix = moments[np.ix_(order[::-1], order[::-1])]
    np.fill_diagonal(matrix, diagonal[order[::-1]])
    factorize(matrix)
    upper = matrix[::-1, ::-1]
    upper /= upper.diagonal().copy()
    return Feedback(order, upper)


def factorize(matrix: Float32) -> None:
    """Replace a positive definite matrix by its lower Cholesky factor, in place.

    By blocks of columns, so that nearly all is matrix products on all cores: numpy's own
    factorization of a wide layer's moments takes several times as long.
    """
    size = len(matrix)
    for begin in range(0, size, _FACTOR_BLOCK):
        end = min(begin + _FACTOR_BLOCK, size)
        matrix[begin:end, begin:end] = np.linalg.cholesky(matrix[begin:end, begin:end])
        inverse = np.linalg.inv(matrix[begin:end, begin:end].astype(np.float64))
        matrix[end:, begin:end] = matrix[end:, begin:end] @ inverse.T.astype(np.float32)
        for row in range(end, size, _STRIP):  # of the rest only the lower triangle is needed
            last = min(row + _STRIP, size)
            below = matrix[row:last, begin:end] @ matrix[end:last, begin:end].T
            matrix[row:last, end:last] -= below
        matrix[begin:end, end:] = 0


def _feedback(statistics: Statistics, moments: Float32, shrinkage: float) -> Feedback:
    if shrinkage == PLAIN:
        return Feedback(np.arange(len(moments)), None)

    def compute(moments: Float32, shrinkage: float) -> Feedback:
        return feedback_of(statistics.shrunk(moments, shrinkage))

    found: Feedback = statistics.once(moments, shrinkage, compute)
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
) -> tuple[LutWeight | BlockWeight, float]:
    """Quantize a matrix (rows, columns) as `spec` says; return it with the shrinkage chosen, or
    `PLAIN`.

    The result is the same for any number of `threads` (default: one per core).
    """
    values = to_float32(array)
    levels = _levels(values, spec, statistics, name, threads)
    shrinkage = _choose_shrinkage(values, levels, statistics, threads)
    feedback = _feedback(statistics, statistics.second_moments, shrinkage)
    chosen, _ = _round(values, levels, feedback, threads)
    return levels.weight(chosen), shrinkage


def _levels(
    values: Float32, spec: QuantSpec, statistics: Statistics, name: str, threads: int | None
) -> _Levels:
    if spec.form == "lut":
        diagonal = statistics.second_moments.diagonal()
        weights = diagonal + np.float32(_DAMPING) * diagonal.mean()
        group = spec.group_size
        tables = weighted_tables(
            values, weights, bits=spec.bits, group_size=group, name=name, threads=threads
        )
        return _Levels(spec, tables.astype(np.float32))
    return _Levels(spec, grid=quantize_blocks(values, spec=spec, name=name, threads=threads))


def _choose_shrinkage(
    values: Float32, levels: _Levels, statistics: Statistics, threads: int | None
) -> float:
    """The shrinkage, or `PLAIN`, with which one half of the tokens gives the least error on the
    other half."""
    if statistics.halves is None:
        return SHRINKAGES[1]
    half, held_out = statistics.halves
    group = levels.spec.group_size if levels.luts is not None else 1
    count = -(-len(values) // group)
    picked = np.unique(np.linspace(0, count - 1, max(1, _TRIAL_ROWS // group)).astype(int))
    rows = (picked[:, None] * group + np.arange(group)).reshape(-1)
    rows = rows[rows < len(values)]
    some, some_levels = np.ascontiguousarray(values[rows]), levels.some(rows)

    def loss(shrinkage: float) -> float:
        tried = shrinkage if shrinkage == PLAIN else min(1.0, 2 * shrinkage)
        feedback = _feedback(statistics, half, tried)
        _, errors = _round(some, some_levels, feedback, threads)
        return float(np.einsum("rc,rc->", errors @ held_out, errors, dtype=np.float64))

    # Without a rotation, the moments of uncorrelated channels feed nothing back either.
    shrinkages = SHRINKAGES[:-1] if statistics.independent is diagonal_part else SHRINKAGES
    best: float = min((PLAIN, *shrinkages), key=loss)
    return best


def _round(
    values: Float32, levels: _Levels, feedback: Feedback, threads: int | None
) -> tuple[NDArray[Any], Float32]:
    """Choose indices or integers (rows, columns); return them and the errors, value − level."""
    order, coefficients = feedback.order, feedback.coefficients
    rows, columns = values.shape
    ordered = np.ascontiguousarray(values[:, order])
    errors = np.empty_like(ordered)
    chosen = np.empty(values.shape, np.uint8 if levels.luts is not None else np.int8)
    rounds = _rounder(levels, order)
    step = levels.spec.group_size * max(1, 64 // levels.spec.group_size)
    begins = range(0, rows, step)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for begin in range(0, columns, _BLOCK):
            end = min(begin + _BLOCK, columns)
            targets, inner = ordered[:, begin:end].copy(), np.zeros((end - begin,) * 2, np.float32)
            if coefficients is not None:
                targets += errors[:, :begin] @ coefficients[:begin, begin:end]
                inner = np.ascontiguousarray(coefficients[begin:end, begin:end])
            span, block = slice(begin, end), np.empty((rows, end - begin), chosen.dtype)

            whole = Block(targets, ordered[:, span], inner, errors[:, span])

            def run(
                first: int,
                whole: Block = whole,
                span: slice = span,
                block: NDArray[Any] = block,
            ) -> None:
                some = slice(first, first + step)
                part = Block(
                    whole.targets[some],
                    whole.values[some],
                    whole.coefficients,
                    whole.errors[some],
                )
                rounds(part, some, span, block[some])

            list(pool.map(run, begins))
            chosen[:, order[span]] = block
    unordered = np.empty_like(errors)
    unordered[:, order] = errors
    return chosen, unordered


def _rounder(levels: _Levels, order: NDArray[np.intp]) -> Callable[..., None]:
    """The kernel of a form, for a block that is rows `some` and columns `span` in that order."""
    group, bits = levels.spec.group_size, levels.spec.bits
    if (luts := levels.luts) is not None:

        def tables(block: Block, some: slice, span: slice, chosen: NDArray[np.uint8]) -> None:
            part = luts[some.start // group : -(-some.stop // group)]
            round_to_tables(block, part, group, chosen)

        return tables
    grid = levels.grid
    assert grid is not None
    block_of = order // group

    def grids(block: Block, some: slice, span: slice, chosen: NDArray[np.int8]) -> None:
        at = block_of[span]
        scales = grid.scale[some][:, at].astype(np.float32)
        offsets = np.zeros_like(scales) if grid.offset is None else grid.offset[some][:, at]
        round_to_grids(block, scales, offsets, bits, chosen)

    return grids
