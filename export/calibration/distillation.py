"""Distillation: the levels of quantized matrices are tuned so that the model's next tokens come
nearer to those of the checkpoint.

The integers stay as error feedback chose them; table entries, or the scales of blocks, move. The
loss is the mean of KL(checkpoint ‖ quantized model) over the positions of some examples, which
change with every step; Adam (Kingma and Ba 2015) follows its gradient. A level moves relative to
the size of its table or to its scale, so that one rate fits all. Weights are spread out, and
gradients go back, one block at a time: a block's activations are computed a second time.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.nn import functional

from export.calibration.head import Head
from export.calibration.layers import Inputs, LayerRunner, Pace, Report
from export.calibration.torch_ops import as_tensor
from export.checkpoint.calibrated import CalibratedSource, save_weights
from export.checkpoint.source import TensorSource
from export.plan import DISTILLED_POSITIONS
from export.quant.weights import BlockWeight, LutWeight, Weight
from mobile_runtime.files import written_whole

_RATE = 1e-3
_WARM = 5  # steps in which the rate rises
_LAST = 0.05  # of the rate, to which it falls
_BETAS = (0.9, 0.95)
_EPSILON = 1e-12  # gradients are divided by the number of positions: they are small
_SEED = 0  # of the order of the examples
_TEACHER = "teacher.st"
_STATE = "distilled.st"


class Levels(ABC):
    """What a matrix (rows, columns) may hold: `values`, one row per table or block, and how large
    they are, in `sizes` (tables or blocks, 1)."""

    values: Tensor
    sizes: Tensor

    @abstractmethod
    def matrix(self, values: Tensor) -> Tensor:
        """The matrix with other values."""

    @abstractmethod
    def gradient(self, matrix: Tensor) -> Tensor:
        """The gradient at the values, from that at the matrix."""

    @abstractmethod
    def weight(self, values: Tensor) -> Weight:
        """The matrix with other values in its storage form."""


class _Tables(Levels):
    def __init__(self, weight: LutWeight, device: str) -> None:
        self._weight = weight
        self.values = as_tensor(weight.lut.astype(np.float32)).to(device)
        self.sizes = self.values.square().mean(1, keepdim=True).sqrt()
        # A byte for each: as int64, which torch wants for a lookup, only while it is used.
        self._indices = as_tensor(weight.indices()).to(device).view(len(self.values), -1)

    def matrix(self, values: Tensor) -> Tensor:
        return values.gather(1, self._indices.long()).view(self._weight.shape)

    def gradient(self, matrix: Tensor) -> Tensor:
        sums = torch.zeros_like(self.values)
        return sums.scatter_add_(1, self._indices.long(), matrix.float().reshape(len(sums), -1))

    def weight(self, values: Tensor) -> Weight:
        return replace(self._weight, lut=values.cpu().numpy().astype(np.float16))


class _Scales(Levels):
    def __init__(self, weight: BlockWeight, device: str) -> None:
        self._weight = weight
        self.values = as_tensor(weight.scale.astype(np.float32)).to(device).view(-1, 1)
        self.sizes = self.values.abs()
        self._integers = as_tensor(weight.q).to(device).view(len(self.values), -1)
        offset = weight.offset
        self._offset = 0 if offset is None else as_tensor(offset).to(device).view(-1, 1)

    def matrix(self, values: Tensor) -> Tensor:
        return (self._integers * values + self._offset).view(self._weight.shape)

    def gradient(self, matrix: Tensor) -> Tensor:
        products = matrix.float().reshape(self._integers.shape) * self._integers
        return products.sum(1, keepdim=True)

    def weight(self, values: Tensor) -> Weight:
        before = self._weight.scale
        scale: Any = values.view(before.shape).cpu().numpy().astype(before.dtype)
        return replace(self._weight, scale=scale)


Block = Mapping[str, Levels]  # those of a block's matrices


def levels_of(weight: Weight, device: str) -> Levels:
    """Those of a finished matrix."""
    if isinstance(weight, LutWeight):
        return _Tables(weight, device)
    assert isinstance(weight, BlockWeight), f"{type(weight).__name__} has no levels"
    return _Scales(weight, device)


@dataclass
class _State:
    """How far each level has moved, relative to its size, and Adam's means of the gradient and of
    its square, by matrix; all of `step` steps."""

    step: int
    moved: dict[str, Tensor]
    means: dict[str, Tensor]
    squares: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        kinds = {"moved": self.moved, "means": self.means, "squares": self.squares}
        arrays = {
            f"{kind}:{name}": tensor.cpu().numpy()
            for kind, tensors in kinds.items()
            for name, tensor in tensors.items()
        }
        with written_whole(path) as partial:
            save_file(arrays, str(partial), {"step": str(self.step)})

    @classmethod
    def load(cls, path: Path, levels: Mapping[str, Levels]) -> _State:
        """What was saved, or the state before the first step."""
        zeros = {name: torch.zeros_like(one.values) for name, one in levels.items()}
        try:
            with safe_open(path, framework="np") as file:
                kinds = [
                    {
                        n: as_tensor(file.get_tensor(f"{kind}:{n}")).to(z.device)
                        for n, z in zeros.items()
                    }
                    for kind in ("moved", "means", "squares")
                ]
                return cls(int(file.metadata()["step"]), *kinds)
        except (OSError, SafetensorError):
            copies = ({n: z.clone() for n, z in zeros.items()} for _ in range(3))
            return cls(0, *copies)

    def values(self, name: str, levels: Levels) -> Tensor:
        """Those of a matrix, moved."""
        return levels.values + levels.sizes * self.moved[name]

    def follow(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        """One step of Adam."""
        self.step += 1
        first, second = (1 - beta**self.step for beta in _BETAS)
        for name, gradient in gradients.items():
            mean = self.means[name].lerp_(gradient, 1 - _BETAS[0])
            square = self.squares[name].lerp_(gradient.square(), 1 - _BETAS[1])
            self.moved[name] -= rate / first * mean / ((square / second).sqrt_() + _EPSILON)


@dataclass(frozen=True)
class Distillation:
    """Tunes the blocks of which each of `files` holds one, on the texts of `inputs`, those of the
    first block, in a number of `steps`. What it needs on the way is kept in `folder`, where it
    writes what it has tuned."""

    runner: LayerRunner
    source: TensorSource
    files: Sequence[Path]
    inputs: Inputs
    steps: int
    folder: Path

    def complete(self, report: Report) -> None:
        """Do the steps that are not done yet, and store the matrices."""
        blocks = [
            _read_levels(self.source, path, self.runner.compute.device) for path in self.files
        ]
        state = _State.load(
            self.folder / _STATE, {n: v for block in blocks for n, v in block.items()}
        )
        if state.step < self.steps:
            self._go_on(blocks, state, report)
        for path, block in zip(self.files, blocks, strict=True):
            weights = {
                name: levels.weight(state.values(name, levels)) for name, levels in block.items()
            }
            specs = CalibratedSource(self.source, [path]).weights
            save_weights(weights, specs, self.folder / f"{path.stem}.safetensors")

    def _go_on(self, blocks: Sequence[Block], state: _State, report: Report) -> None:
        teacher = self._teacher()
        head = Head(self.source, self.runner.compute, self.runner.described.config.decoder)
        pace = Pace(report, "distillation: step", self.steps, state.step)
        for texts in itertools.islice(_drawn(self.inputs.lengths), state.step, self.steps):
            drawn = self.inputs.some(texts), teacher.some(texts)
            gradients = self._gradients(blocks, state, *drawn, head)
            state.follow(gradients, _rate(state.step + 1, self.steps))
            state.save(self.folder / _STATE)
            pace.tell(state.step)

    def _teacher(self) -> Inputs:
        """What the checkpoint's last block gives."""
        path = self.folder / _TEACHER
        if (ended := Inputs.load(path)) is None:
            ended = self.runner.run_all(self.inputs, self.source)
            ended.save(path)
        return ended

    def _gradients(
        self, blocks: Sequence[Block], state: _State, inputs: Inputs, teacher: Inputs, head: Head
    ) -> dict[str, Tensor]:
        """The loss's gradient at how far the levels of each matrix moved."""
        reached, found = [inputs], {}
        for block in blocks:
            reached.append(
                self.runner.run(reached[-1], self.source, loaded=self._spread(block, state))
            )
        count = len(teacher.hidden)

        def loss(logits: Tensor, some: slice) -> Tensor:
            with torch.no_grad():
                states = torch.from_numpy(teacher.hidden[some]).to(logits.device)
                wanted = head.logits(states).log_softmax(1)
            losses = functional.kl_div(
                logits.log_softmax(1), wanted, reduction="sum", log_target=True
            )
            return losses / count

        gradient = head.gradient(reached.pop().hidden, loss)
        for block in reversed(blocks):
            spread = self._spread(block, state)
            gradient, at = self.runner.run_back_to(reached.pop(), gradient, self.source, spread)
            for name, levels in block.items():
                found[name] = levels.gradient(at[name]) * levels.sizes
        return found

    def _spread(self, block: Block, state: _State) -> dict[str, Tensor]:
        dtype = self.runner.compute.dtype
        return {n: levels.matrix(state.values(n, levels)).to(dtype) for n, levels in block.items()}


def _read_levels(origin: TensorSource, path: Path, device: str) -> Block:
    """Those of the matrices in a file."""
    finished = CalibratedSource(origin, [path])
    return {
        name: levels_of(finished.read_weight(name, 0, origin.tensors[name].shape[0]), device)
        for name in finished.weights
    }


def _drawn(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of texts, without end: about `DISTILLED_POSITIONS` positions together, every text as
    often as any other, in a new order each time."""
    rng, batch = np.random.default_rng(_SEED), []
    while True:
        for text in rng.permutation(len(lengths)).tolist():
            batch.append(text)
            if sum(lengths[n] for n in batch) >= DISTILLED_POSITIONS:
                yield batch
                batch = []


def _rate(step: int, steps: int) -> float:
    """The rate of a step, counted from 1: a rise, then half a cosine."""
    fallen = 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
    return _RATE * min(1, step / _WARM) * (_LAST + (1 - _LAST) * fallen)
