"""The decoder block by block on many texts at once, and second moments of what its matrices
multiply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from export.quant.statistics import Statistics, diagonal_part
from export.releases.release import ModelDescription
from mobile_runtime.files import written_whole
from mobile_runtime.model.positions import rope_tables

_STRIP = 1024  # rows of a matrix of second moments that are computed together


@dataclass(frozen=True, eq=False)
class Inputs:
    """Texts at the input of a block: `hidden` (positions, D) float32, one text after the other, of
    these `lengths`. The first `split` positions are those of one half of the texts."""

    block: int
    hidden: np.ndarray
    lengths: tuple[int, ...]
    split: int

    @classmethod
    def of_texts(cls, texts: Sequence[np.ndarray]) -> Inputs:
        """Every second text belongs to the first half, so that the halves are alike."""
        ordered = [*texts[::2], *texts[1::2]]
        split = sum(len(text) for text in texts[::2])
        return cls(0, np.concatenate(ordered), tuple(len(text) for text in ordered), split)

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        arrays = {"hidden": self.hidden, "lengths": np.asarray(self.lengths)}
        with written_whole(path) as partial:
            save_file(arrays, str(partial), {"block": str(self.block), "split": str(self.split)})

    @classmethod
    def load(cls, path: Path) -> Inputs | None:
        """What was saved, if anything was."""
        try:
            with safe_open(path, framework="np") as file:
                said, lengths = file.metadata(), tuple(file.get_tensor("lengths").tolist())
                hidden = file.get_tensor("hidden")
                return cls(int(said["block"]), hidden, lengths, int(said["split"]))
        except (OSError, SafetensorError):
            return None


def measure(x: Tensor, split: int, independent: Callable[[Any], Any] = diagonal_part) -> Statistics:
    """Statistics of inputs x (positions, columns), whose halves meet at `split`."""
    parts = [part for part in (x[:split], x[split:]) if len(part)]
    means = []
    for part in parts:
        means.append(_second_moments(part.float()).cpu().numpy())
        means[-1] /= np.float32(len(part))
    return Statistics(tuple(means), tuple(len(part) for part in parts), independent)


def _second_moments(x: Tensor) -> Tensor:
    """xᵀ · x, of which the products on and above the diagonal are computed."""
    size = x.shape[1]
    moments = torch.empty((size, size), device=x.device)
    for begin in range(0, size, _STRIP):
        end = min(begin + _STRIP, size)
        strip = x[:, begin:end].T @ x[:, begin:]
        moments[begin:end, begin:] = strip
        moments[begin:, begin:end] = strip.T
    return moments


@dataclass(frozen=True)
class LayerRunner:
    """Runs one block on all texts."""

    described: ModelDescription
    compute: Compute

    @torch.inference_mode()
    def run(self, inputs: Inputs, source: TensorReader, observe: Observe | None = None) -> Inputs:
        """The inputs of the next block, with the weights of `source`. `observe` sees what each
        matrix multiplies before the matrix is read."""
        decoder, device = self.described.config.decoder, self.compute.device
        positions = np.concatenate([np.arange(length) for length in inputs.lengths])
        tables = rope_tables(positions, decoder.head_dim, decoder.rope_theta)
        cos, sin = (torch.from_numpy(table).to(device) for table in tables)

        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            q, k = rotate_half(q, cos, sin), rotate_half(k, cos, sin)
            return causal_attention(q, k, v, inputs.lengths)

        ops, x = TorchOps(source, self.compute, observe), torch.from_numpy(inputs.hidden)
        bodies = self.described.release.bodies
        ended: Tensor = bodies.decoder_layer(ops, x.to(device), decoder, inputs.block, attend)
        return replace(inputs, block=inputs.block + 1, hidden=ended.cpu().numpy())
