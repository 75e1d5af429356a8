"""What a matrix has to give so that the quantized model comes back to the checkpoint's course.

The matrices before it have errors. Where the checkpoint's model multiplies x̃ with W and adds the
product to a residual stream r̃, the quantized one gets x, and r. With y = W·x̃ + r̃ − r in the place
of its product it would go on as the checkpoint does. On average

    W + E[(y − W·x)·xᵀ] · (E[x·xᵀ] + λ·I)⁻¹

comes nearest to that, up to the ridge λ, and is rounded in the place of W (GPTAQ, Li et al. 2025;
QEP, Arai and Ichikawa 2025; both leave r̃ − r out). Means of few positions fit these better than
others: λ is the one of `RIDGES` that does best on the half of the positions that was held out. If
none comes nearer than W itself, W stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.calibration.layers import Inputs, LayerRunner
from export.checkpoint.rotation import RotatedSource
from export.graphs.graph import Parameter
from export.quant.feedback import trial_rows
from export.quant.statistics import Statistics

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of the mean of the diagonal of E[x·xᵀ]


@dataclass(frozen=True, eq=False)
class Drift:
    """How far what a matrix is given has come off its course, by halves of the positions.

    `moments` are means of x·xᵀ, (columns, columns), and `inputs` those of (x̃ − x)·xᵀ; `streams` are
    those of (r̃ − r)·xᵀ, (rows, columns), of a matrix whose product is added to the stream. `counts`
    are the numbers of positions.
    """

    moments: Sequence[Tensor]
    inputs: Sequence[Tensor]
    counts: Sequence[int]
    streams: Sequence[Tensor] | None = None

    @classmethod
    def between(
        cls,
        statistics: Statistics,
        x: Tensor,
        exact: Tensor,
        counts: Tensor | None,
        stream: Tensor | None,
    ) -> Drift:
        """Of inputs x (positions, columns) of the quantized model, from which `statistics` were
        measured with the same `counts`, and `exact` ones of the checkpoint's. `stream`
        (positions, rows) is r̃ − r, if the product is added to it."""
        split = statistics.counts[0]
        halves = [slice(split), slice(split, None)]
        x = x.float()
        away = exact.float() - x
        counted = x if counts is None else x * counts[:, None]

        def mean(left: Tensor, half: slice) -> Tensor:
            return left[half].T @ counted[half] / len(x[half])

        return cls(
            [torch.from_numpy(part).to(x.device) for part in statistics.parts],
            [mean(away, half) for half in halves],
            statistics.counts,
            None if stream is None else [mean(stream, half) for half in halves],
        )

    def corrected(self, weight: np.ndarray) -> np.ndarray:
        """What is to be rounded in the place of a matrix (rows, columns), float32."""
        values = torch.from_numpy(weight.astype(np.float32)).to(self.moments[0].device)
        ridge = self._choose_ridge(values)
        if ridge is not None:
            wanted = self._whole([self._wanted(values, half, slice(None)) for half in (0, 1)])
            values = values + _nearest(self._all_moments, wanted, ridge)
        corrected: np.ndarray = values.cpu().numpy()
        return corrected

    @cached_property
    def _all_moments(self) -> Tensor:
        """Those of both halves, once for all matrices with the same inputs."""
        return self._whole(self.moments)

    def _wanted(self, values: Tensor, half: int, rows: Any) -> Tensor:
        """E[(y − W·x)·xᵀ] over a half, for some rows."""
        wanted = values[rows] @ self.inputs[half]
        return wanted if self.streams is None else wanted + self.streams[half][rows]

    def _choose_ridge(self, values: Tensor) -> float | None:
        """That with which one half brings some rows nearest on the other half, if any does."""
        rows = torch.from_numpy(trial_rows(len(values), 1)).to(values.device)
        given, held_out = (self._wanted(values, half, rows) for half in (0, 1))
        chosen, least = None, 0.0
        for ridge in RIDGES:
            # Half as many positions have errors twice as large.
            change = _nearest(self.moments[0], given, 2 * ridge)
            moved = change @ self.moments[1] - 2 * held_out
            if (loss := float((moved * change).sum())) < least:
                chosen, least = ridge, loss
        return chosen

    def _whole(self, halves: Sequence[Tensor]) -> Tensor:
        first, second = (count / sum(self.counts) for count in self.counts)
        return halves[0] * first + halves[1] * second


@dataclass(frozen=True, eq=False)
class Course:
    """A block of the checkpoint on some texts: what each of its matrices multiplies and the stream
    before it, (positions, channels), by name, and the inputs of the next block."""

    source: RotatedSource
    seen: Mapping[str, tuple[Tensor, Tensor]]
    after: np.ndarray

    @classmethod
    def of_block(cls, runner: LayerRunner, inputs: Inputs, source: RotatedSource) -> Course:
        """That of the checkpoint `source`, from the `exact` inputs."""
        assert inputs.exact is not None, "they are followed"
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def observe(parameters: Sequence[Parameter], x: Tensor, stream: Tensor) -> None:
            seen.update({parameter.name: (x, stream) for parameter in parameters})

        after = runner.run(replace(inputs, hidden=inputs.exact), source, observe)
        return cls(source, seen, after.hidden)

    def drift(
        self,
        name: str,
        statistics: Statistics,
        x: Tensor,
        stream: Tensor,
        counts: Tensor | None,
    ) -> Drift | None:
        """How far the inputs x (positions, columns) of a matrix and the stream have come off; None
        if there are no halves to judge by. `counts` are those of the `statistics`."""
        if not statistics.has_halves:
            return None
        exact, exact_stream = self.seen[name]
        away = exact_stream - stream if self.source.adds_to_stream(name) else None
        return Drift.between(statistics, x, exact, counts, away)


def _nearest(moments: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """wanted · (moments + ridge · mean of their diagonal)⁻¹."""
    matrix = moments.clone()
    matrix.diagonal().add_(ridge * moments.diagonal().mean())
    return torch.cholesky_solve(wanted.T, torch.linalg.cholesky(matrix)).T
