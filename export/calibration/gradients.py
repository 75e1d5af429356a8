"""How much each position of the examples counts for each matrix, by gradients.

A loss whose labels are drawn from the model's own distribution has, at what a matrix gives for an
input x, the gradient δ. An error E of the matrix moves the model's distribution by
½ · mean (δᵀ · E · x)² in KL divergence, to second order. With the mean of δ² over the rows in the
place of δ·δᵀ this is tr(E · M · Eᵀ) for M = mean δ² · x·xᵀ (GuidedQuant, Kim et al. 2025). Few
positions have the say in such a mean, and it overfits. So it is added to that of x·xᵀ, each divided
by its size.

Products of the gradients of two rows tell how an error of one is taken up by another
(`export.quant.feedback`). In these, a position counts by the size of its gradient, not by its
square.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional

from export.calibration.head import Head
from export.calibration.layers import Inputs, LayerRunner, Pace, Report
from export.calibration.row_products import RowProducts
from export.checkpoint.source import TensorReader
from export.graphs.graph import Parameter
from mobile_runtime.files import written_whole

_SEED = 0  # of the labels
_GRADIENT = "gradient.st"
_LEAST = 1e-12  # of what is divided by


@dataclass(frozen=True)
class Gradients:
    """The squared gradients of a model's matrices on some inputs, and products of those of two
    rows, kept in `folder`."""

    runner: LayerRunner
    source: TensorReader
    folder: Path

    def complete(self, inputs: Inputs, report: Report) -> None:
        """Compute what is not there yet: inputs of all blocks, then gradients from the last one to
        the first."""
        count = self.runner.described.config.decoder.num_layers
        if self._squares(0).is_file():
            return
        gradient = Inputs.load(self.folder / _GRADIENT)
        if gradient is None:
            last = self._run_forward(inputs, count)
            gradient = replace(last, hidden=self._end(last))
            gradient.save(self.folder / _GRADIENT)
        pace = Pace(report, "gradients of block", count, count - gradient.block)
        while gradient.block > 0:
            block = gradient.block - 1
            reached = Inputs.load(self._inputs(block))
            assert reached is not None, "the inputs of all blocks were kept"
            before = self._back(reached, gradient.hidden)
            gradient = replace(gradient, block=block, hidden=before)
            gradient.save(self.folder / _GRADIENT)
            self._inputs(block).unlink()
            pace.tell(count - block)

    def squares(self, block: int) -> dict[str, np.ndarray]:
        """By matrix of a block, the mean squared gradient at what it gives, (positions,)."""
        found: dict[str, np.ndarray] = load_file(self._squares(block))
        return found

    def between(self, block: int, name: str) -> tuple[np.ndarray, ...]:
        """For a matrix of a block, second moments of the gradients at what its rows give, by
        panels of consecutive rows: float32, of mean 1 on their diagonals."""
        with safe_open(self._between(block), framework="np") as file:
            keys = file.keys()
            count = sum(key.startswith(f"{name}:") for key in keys)
            panels = (file.get_tensor(f"{name}:{n}") for n in range(count))
            return tuple(panel.astype(np.float32) for panel in panels)

    def counts(self, block: int, names: list[str], x: Tensor) -> Tensor:
        """How much each position of inputs x (positions, columns) counts for the matrices `names`,
        which share them: (positions,)."""
        squares = self.squares(block)
        sizes = x.float().square().mean(1)
        counts = 1 / sizes.mean()
        for name in names:
            square = torch.from_numpy(squares[name]).to(x.device)
            counts = counts + square / ((square * sizes).mean() * len(names))
        return counts / counts.mean()

    def _back(self, reached: Inputs, gradient: np.ndarray) -> np.ndarray:
        """Go back through a block, and keep what was seen of its matrices."""
        squares: dict[str, list[np.ndarray]] = {}
        products: dict[str, RowProducts] = {}

        def observe(some: slice, weight: Parameter, found: Tensor) -> None:
            found = found.float()
            square = found.square().mean(1)
            squares.setdefault(weight.name, []).append(square.cpu().numpy())
            sizes = square.sqrt().sqrt().clamp_min(_LEAST)
            own = products.setdefault(weight.name, RowProducts(found.shape[1]))
            own.add(found / sizes[:, None], int(some.start >= reached.split))

        before = self.runner.run_back(reached, gradient, self.source, observe)
        panels = {
            f"{name}:{n}": panel
            for name, own in products.items()
            for n, panel in enumerate(own.shrunk())
        }
        with written_whole(self._between(reached.block)) as partial:
            save_file(panels, str(partial))
        with written_whole(self._squares(reached.block)) as partial:
            save_file({n: np.concatenate(parts) for n, parts in squares.items()}, str(partial))
        return before

    def _run_forward(self, inputs: Inputs, count: int) -> Inputs:
        while inputs.block < count:
            inputs.save(self._inputs(inputs.block))
            inputs = self.runner.run(inputs, self.source)
        return inputs

    def _end(self, last: Inputs) -> np.ndarray:
        """The gradient at the outputs of the last block."""
        compute = self.runner.compute
        random = torch.Generator(compute.device).manual_seed(_SEED)

        def loss(logits: Tensor, _: slice) -> Tensor:
            labels = torch.multinomial(logits.detach().softmax(1), 1, generator=random)[:, 0]
            return functional.cross_entropy(logits, labels, reduction="sum")

        head = Head(self.source, compute, self.runner.described.config.decoder)
        return head.gradient(last.hidden, loss)

    def _inputs(self, block: int) -> Path:
        return self.folder / f"inputs_{block:03d}.st"

    def _between(self, block: int) -> Path:
        return self.folder / f"between_{block:03d}.st"

    def _squares(self, block: int) -> Path:
        return self.folder / f"squares_{block:03d}.st"
