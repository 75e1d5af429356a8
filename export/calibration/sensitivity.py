"""What each way to store each matrix costs: forecasts by which a budget is spent.

Some rows of a matrix are quantized as they would be, with error feedback by one half of the
examples. On the other half, at inputs x, their errors E move the model's distribution by about
½ · mean δ² · |E · x|² in KL divergence, where δ² is the mean squared gradient of
`export.calibration.gradients` at what the matrix gives. Matrices are taken on their own, in the
model that is not quantized, and rows as independent of one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.calibration.gradients import Gradients
from export.calibration.layers import Inputs, LayerRunner, Pace, Report, measure
from export.calibration.torch_ops import as_tensor
from export.checkpoint.rotation import RotatedSource
from export.graphs.graph import Parameter
from export.quant.budget import Option
from export.quant.feedback import trial_errors, trial_rows
from export.quant.recipe import QuantSpec
from export.quant.statistics import Statistics
from mobile_runtime.files import load_json, write_json

_SHRINKAGE = 0.2  # of the half of the inputs that is fed back by
_ROWS = 64  # rows of a trial are whole groups of any option


@dataclass(frozen=True)
class Sensitivity:
    """Forecasts for the matrices of `options`, kept in `folder`."""

    runner: LayerRunner
    source: RotatedSource
    gradients: Gradients
    options: Mapping[str, Sequence[QuantSpec]]
    folder: Path

    def complete(
        self, inputs: Inputs, report: Report, together: bool
    ) -> dict[tuple[str, ...], list[Option]]:
        """Compute what is not there yet, block after block; return the options of each matrix, or
        of those `together` that have the same inputs."""
        inputs = Inputs.load(self.folder / "sensed.st") or inputs
        count = self.runner.described.config.decoder.num_layers
        pace = Pace(report, "measured block", count, inputs.block)
        while inputs.block < count:
            inputs = self._sense(inputs)
            inputs.save(self.folder / "sensed.st")
            pace.tell(inputs.block)
        sites = [site for n in range(count) for site in load_json(self._path(n), "calibrate again")]
        if not together:
            sites = [{name: losses} for site in sites for name, losses in site.items()]
        return {tuple(site): self._options(site) for site in sites}

    def _options(self, site: Mapping[str, Sequence[float]]) -> list[Option]:
        """Those of matrices that are stored alike."""
        count = len(next(iter(site.values())))
        return [
            Option(
                n, sum(self._size(name, n) for name in site), sum(lost[n] for lost in site.values())
            )
            for n in range(count)
        ]

    def _size(self, name: str, number: int) -> int:
        return self.options[name][number].stored_bytes(self.source.tensors[name].shape)

    def _sense(self, inputs: Inputs) -> Inputs:
        sites: list[dict[str, list[float]]] = []
        squares = self.gradients.squares(inputs.block)

        def observe(parameters: Sequence[Parameter], x: Tensor, _: Tensor) -> None:
            names = [parameter.name for parameter in parameters if parameter.name in self.options]
            if not names:
                return
            statistics = measure(x, inputs.split, self.source.diagonal_part_of(names[0]))
            held_out = x[inputs.split :] if statistics.has_halves else x
            sites.append({})
            for name in names:
                weights = as_tensor(squares[name][len(x) - len(held_out) :]).to(x.device)
                sites[-1][name] = self._losses(name, statistics, held_out.float(), weights)

        after = self.runner.run(inputs, self.source, observe)
        write_json(self._path(inputs.block), sites)
        return after

    def _losses(self, name: str, statistics: Statistics, x: Tensor, squares: Tensor) -> list[float]:
        values = self.source.read(name).astype(np.float32)
        rows = trial_rows(len(values), min(_ROWS, len(values)))
        some = np.ascontiguousarray(values[rows])
        losses = []
        for spec in self.options[name]:
            errors = trial_errors(some, spec, statistics, _SHRINKAGE, name=name)
            moved = (x @ torch.from_numpy(errors).to(x.device).T).square().sum(1)
            losses.append(float((squares * moved).mean()) / 2 * len(values) / len(rows))
        return losses

    def _path(self, block: int) -> Path:
        return self.folder / f"forecast_{block:03d}.json"
