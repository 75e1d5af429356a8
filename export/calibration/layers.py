"""The decoder block by block on many texts at once, and second moments of what its matrices
multiply."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from export.calibration.torch_ops import (
    Compute,
    Observe,
    TorchOps,
    causal_attention,
    rotate_half,
)
from export.checkpoint.source import TensorReader
from export.graphs.graph import Parameter
from export.quant.statistics import Statistics, diagonal_part
from export.releases.release import ModelDescription
from mobile_runtime.files import written_whole
from mobile_runtime.model.positions import rope_tables

# What was done to a block, blocks done, of how many, seconds that are left.
Report = Callable[[str, int, int, float], None]
# Some positions, a weight, and the loss's gradient at what it gave for them.
ObserveSome = Callable[[slice, Parameter, Tensor], None]
_TOGETHER = 4096  # positions that a gradient goes back through together


@dataclass(frozen=True)
class Pace:
    """Reports blocks of `count` that are done, `first` of which were done before it started."""

    report: Report
    what: str
    count: int
    first: int = 0
    started: float = field(default_factory=time.monotonic)

    def tell(self, done: int) -> None:
        """Report, with the time that the others will take."""
        seconds = (time.monotonic() - self.started) / (done - self.first)
        self.report(self.what, done, self.count, seconds * (self.count - done))


@dataclass(frozen=True, eq=False)
class Inputs:
    """Texts at the input of a block: `hidden` (positions, D) float32, one text after the other, of
    these `lengths`. The first `split` positions are those of one half of the texts. `exact` are
    those of the checkpoint, if they are followed, where `hidden` are those of a quantized model."""

    block: int
    hidden: np.ndarray
    lengths: tuple[int, ...]
    split: int
    exact: np.ndarray | None = None

    @classmethod
    def of_texts(cls, texts: Sequence[np.ndarray]) -> Inputs:
        """Every second text belongs to the first half, so that the halves are alike."""
        ordered = [*texts[::2], *texts[1::2]]
        split = sum(len(text) for text in texts[::2])
        return cls(0, np.concatenate(ordered), tuple(len(text) for text in ordered), split)

    def some(self, texts: Sequence[int]) -> Inputs:
        """Those of the texts with these numbers, in their order, none of them held out."""
        ends = np.cumsum(self.lengths)
        places = [np.arange(ends[n] - self.lengths[n], ends[n]) for n in texts]
        lengths = tuple(self.lengths[n] for n in texts)
        return Inputs(self.block, self.hidden[np.concatenate(places)], lengths, sum(lengths))

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        arrays = {"hidden": self.hidden, "lengths": np.asarray(self.lengths)}
        if self.exact is not None:
            arrays["exact"] = self.exact
        with written_whole(path) as partial:
            save_file(arrays, str(partial), {"block": str(self.block), "split": str(self.split)})

    @classmethod
    def load(cls, path: Path) -> Inputs | None:
        """What was saved, if anything was."""
        try:
            with safe_open(path, framework="np") as file:
                said, lengths = file.metadata(), tuple(file.get_tensor("lengths").tolist())
                hidden = file.get_tensor("hidden")
                names = file.keys()
                exact = file.get_tensor("exact") if "exact" in names else None
                return cls(int(said["block"]), hidden, lengths, int(said["split"]), exact)
        except (OSError, SafetensorError):
            return None


def measure(
    x: Tensor,
    split: int,
    independent: Callable[[Any], Any] = diagonal_part,
    counts: Tensor | None = None,
) -> Statistics:
    """Statistics of inputs x (positions, columns), whose halves meet at `split`. Each counts as
    much as `counts` (positions,) says."""
    means, parts = [], [part for part in (slice(split), slice(split, None)) if len(x[part])]
    for part in parts:
        inputs = x[part].float()
        if counts is not None:
            inputs = inputs * counts[part, None].sqrt()
        means.append(_second_moments(inputs))
        means[-1] /= np.float32(len(inputs))
    return Statistics(tuple(means), tuple(len(x[part]) for part in parts), independent)


def _second_moments(x: Tensor) -> np.ndarray:
    """xᵀ · x. numpy sees that it is symmetric, and computes one half."""
    if x.device.type == "cpu":
        values = x.numpy()
        return np.asarray(values.T @ values)
    return np.asarray((x.T @ x).cpu().numpy())


@dataclass(frozen=True)
class LayerRunner:
    """Runs one block on all texts."""

    described: ModelDescription
    compute: Compute

    @torch.inference_mode()
    def run(
        self,
        inputs: Inputs,
        source: TensorReader,
        observe: Observe | None = None,
        loaded: Mapping[str, Tensor] | None = None,
    ) -> Inputs:
        """The inputs of the next block, with the weights of `source`, except those `loaded`.
        `observe` sees what each matrix multiplies before the matrix is read."""
        x = torch.from_numpy(inputs.hidden).to(self.compute.device)
        ops = TorchOps(source, self.compute, observe, loaded=loaded, stream=x)
        ended = self._apply(ops, x, inputs.lengths, inputs.block)
        return replace(inputs, block=inputs.block + 1, hidden=ended.cpu().numpy())

    def run_all(self, inputs: Inputs, source: TensorReader) -> Inputs:
        """What the last block gives."""
        while inputs.block < self.described.config.decoder.num_layers:
            inputs = self.run(inputs, source)
        return inputs

    def run_back(
        self, inputs: Inputs, gradient: np.ndarray, source: TensorReader, observe: ObserveSome
    ) -> np.ndarray:
        """The gradient (positions, D) of a loss at the inputs of a block, from that at its outputs.
        `observe` sees those at what each matrix gives, (positions, rows), some positions after the
        other, none of both halves together."""
        before, begin = [], 0
        for lengths in _batches(inputs.lengths, inputs.split):
            end = begin + sum(lengths)
            seen = partial(observe, slice(begin, end))
            ops = TorchOps(source, self.compute, gradients=seen)
            x = torch.from_numpy(inputs.hidden[begin:end]).to(self.compute.device).requires_grad_()
            ended = self._apply(ops, x, lengths, inputs.block)
            arriving = torch.from_numpy(gradient[begin:end]).to(self.compute.device)
            (leaving,) = torch.autograd.grad(ended, x, arriving)
            before.append(leaving.cpu().numpy())
            begin = end
        return np.concatenate(before)

    def run_back_to(
        self,
        inputs: Inputs,
        gradient: np.ndarray,
        source: TensorReader,
        loaded: Mapping[str, Tensor],
    ) -> tuple[np.ndarray, dict[str, Tensor]]:
        """The gradient (positions, D) of a loss at the inputs of a block, and that at each of the
        matrices `loaded`, from that at the block's outputs."""
        leaves = {name: matrix.detach().requires_grad_() for name, matrix in loaded.items()}
        x = torch.from_numpy(inputs.hidden).to(self.compute.device).requires_grad_()
        ops = TorchOps(source, self.compute, loaded=leaves)
        ended = self._apply(ops, x, inputs.lengths, inputs.block)
        arriving = torch.from_numpy(gradient).to(self.compute.device)
        leaving, *found = torch.autograd.grad(ended, [x, *leaves.values()], arriving)
        return leaving.cpu().numpy(), dict(zip(leaves, found, strict=True))

    def _apply(self, ops: TorchOps, x: Tensor, lengths: Sequence[int], block: int) -> Tensor:
        """A block's outputs (positions, D) for texts of `lengths`, one after the other in x."""
        decoder = self.described.config.decoder
        positions = np.concatenate([np.arange(length) for length in lengths])
        tables = rope_tables(positions, decoder.head_dim, decoder.rope_theta)
        cos, sin = (torch.from_numpy(table).to(self.compute.device) for table in tables)

        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            q, k = rotate_half(q, cos, sin), rotate_half(k, cos, sin)
            return causal_attention(q, k, v, lengths)

        ended: Tensor = self.described.release.bodies.decoder_layer(ops, x, decoder, block, attend)
        return ended


def _batches(lengths: Sequence[int], split: int) -> list[list[int]]:
    """The texts in order, as many together as have `_TOGETHER` positions, or one that is longer. A
    batch ends after `split` positions."""
    batches: list[list[int]] = []
    done = 0
    for length in lengths:
        if batches and done != split and sum(batches[-1]) + length <= _TOGETHER:
            batches[-1].append(length)
        else:
            batches.append([length])
        done += length
    return batches
