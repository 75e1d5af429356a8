"""Error feedback: each column takes up the errors of the columns before it.

For inputs x with M = mean x·xᵀ, an error E = W − Q of a matrix costs tr(E·M·Eᵀ) per token. With the
factorization M = C·Cᵀ, C upper triangular, this is ‖E·C‖², and column k of E·C is
C_kk · (E_k + Σ_{j<k} E_j · C_jk / C_kk). So each column is rounded not at its weights but at
W_k + Σ_{j<k} E_j · C_jk / C_kk: the update of GPTQ (Frantar et al. 2022) in the form of LDLQ
(Chee et al. 2023), which needs no inverse. The values it rounds to are fixed before: the entries of
optimal tables weighted by M's diagonal, or the grids of blocks. Columns come in falling order of
M's diagonal, so that the most important ones have all others left to take up their errors.

Where the loss's gradients δ at what the matrix gives are known, an error of one row can be taken up
by the rows below it as well. The loss is moved by ½ · mean (δᵀ·E·x)² to second order, for which
½ · tr(D·E·M·Eᵀ) stands, D = mean δ·δᵀ (YAQA, Tseng et al. 2025). With D = B·Bᵀ, B upper triangular,
this is ½ · ‖Bᵀ·E·C‖², and element (i, k) of Bᵀ·E·C is B_ii · C_kk · (E_ik + what columns feed to it
+ Σ_{h<i} B_hi / B_ii · (E_hk + what columns feed to that)).

With few tokens per column M fits the calibration better than other texts. So M is shrunk towards
its diagonal in the basis in which the model was trained, with the share in `SHRINKAGES` that does
best on the half of the tokens that was held out. If none does better than the plain rounding of the
same values, nothing is fed back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.quant.blocks import quantize_blocks, to_float32
from export.quant.kmeans import weighted_tables
from export.quant.recipe import QuantSpec
from export.quant.rounding import Feedback, Levels, round_to_levels
from export.quant.statistics import WHOLE, Statistics, diagonal_part
from export.quant.weights import BlockWeight, LutWeight

Float32 = NDArray[np.float32]

SHRINKAGES = (0.03, 0.1, 0.3, 1.0)
PLAIN = -1.0  # stands for a shrinkage: nothing is fed back
_DAMPING = 0.01  # of the mean of M's diagonal, added to it
_FACTOR_BLOCK = 256  # columns that are factorized together
_STRIP = 1024  # rows that are updated together
_TRIAL_ROWS = 128  # rows on which a shrinkage is tried


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
    panels = [] if shrinkage == PLAIN else [feedback_of(moments) for moments in statistics.outputs]
    rounded = round_to_levels(values, levels, feedback, panels, threads)
    return levels.weight(rounded.restored(rounded.chosen)), shrinkage


def _levels(
    values: Float32, spec: QuantSpec, statistics: Statistics, name: str, threads: int | None
) -> Levels:
    if spec.form == "lut":
        diagonal = statistics.diagonal()
        weights = diagonal + np.float32(_DAMPING) * diagonal.mean()
        group = spec.group_size
        tables = weighted_tables(
            values, weights, bits=spec.bits, group_size=group, name=name, threads=threads
        )
        return Levels(spec, tables.astype(np.float32))
    return Levels(spec, grid=quantize_blocks(values, spec=spec, name=name, threads=threads))


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
    levels: Levels,
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


def _errors(values: Float32, levels: Levels, feedback: Feedback, threads: int | None) -> Float32:
    """What rounding leaves: value − level, (rows, columns)."""
    rounded = round_to_levels(values, levels, feedback, threads=threads)
    errors: Float32 = rounded.restored(rounded.errors)
    return errors
