"""The decoder block by block on many texts, and second moments of what its matrices multiply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
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
from mobile_runtime.model.positions import rope_tables

_PACK = 4096  # tokens that run through a layer together
_STRIP = 2048  # rows of a matrix of second moments that are computed together


@dataclass(frozen=True)
class Pack:
    """Texts that run together: which ones, and their lengths in tokens."""

    texts: tuple[int, ...]
    lengths: tuple[int, ...]


def pack_texts(lengths: Sequence[int]) -> list[Pack]:
    """Split texts into an even number of packs of at most about `_PACK` tokens, alternately, so
    that the packs with even numbers and those with odd ones hold alike texts."""
    half = max(1, -(-sum(lengths) // (2 * _PACK)))
    count = 2 * half if len(lengths) > 1 else 1
    groups = [range(first, len(lengths), count) for first in range(min(count, len(lengths)))]
    return [Pack(tuple(g), tuple(lengths[n] for n in g)) for g in groups]


class Moments:
    """Sums x · xᵀ of the inputs of each matrix, for the two halves of the packs."""

    def __init__(self) -> None:
        self.half = 0
        self._sums: dict[str, list[Tensor]] = {}
        self._counts: dict[str, list[int]] = {}
        self._site_of: dict[str, str] = {}

    def observe(self, weights: Sequence[Parameter], x: Tensor) -> None:
        """Add the inputs x (positions, columns) of all `weights`."""
        site, size = weights[0].name, x.shape[1]
        if site not in self._sums:
            shape = (size, size)
            self._sums[site] = [torch.zeros(shape, device=x.device) for _ in range(2)]
            self._counts[site] = [0, 0]
            self._site_of |= {weight.name: site for weight in weights}
        total = self._sums[site][self.half]
        for begin in range(0, size, _STRIP):  # the upper triangle is enough
            end = min(begin + _STRIP, size)
            total[begin:end, begin:].addmm_(x[:, begin:end].T, x[:, begin:])
        self._counts[site][self.half] += len(x)

    def sites(self) -> dict[str, list[str]]:
        """Names of the matrices with the same inputs, by the first of them; widest inputs last."""
        found: dict[str, list[str]] = {site: [] for site in self._sums}
        for name, site in self._site_of.items():
            found[site].append(name)
        return dict(sorted(found.items(), key=lambda item: len(self._sums[item[0]][0])))

    def take(self, site: str, independent: Callable[[Any], Any] = diagonal_part) -> Statistics:
        """Statistics of a site; its sums are given up."""
        counts = self._counts[site]
        halves = [_whole(total).cpu().numpy() for total in self._sums.pop(site)]
        mean = (halves[0] + halves[1]) / np.float32(sum(counts))
        if min(counts) == 0:
            return Statistics(mean, independent=independent)
        for half, count in zip(halves, counts, strict=True):
            half /= np.float32(count)
        return Statistics(mean, (halves[0], halves[1]), independent)


def _whole(upper: Tensor) -> Tensor:
    """The symmetric matrix of which the upper triangle was computed."""
    strips = torch.triu(upper)
    strips += torch.triu(upper, 1).T
    return strips


@dataclass(frozen=True)
class LayerRunner:
    """Runs one block on packs of texts."""

    described: ModelDescription
    compute: Compute

    @torch.inference_mode()
    def run(
        self,
        number: int,
        source: TensorReader,
        hidden: list[np.ndarray],
        packs: Sequence[Pack],
        moments: Moments | None = None,
    ) -> list[np.ndarray]:
        """Hidden states (T, D) of every text after block `number` with the weights of `source`."""
        observe: Observe | None = None if moments is None else moments.observe
        ops = TorchOps(source, self.compute, observe)
        after: dict[int, np.ndarray] = {}
        for count, pack in enumerate(packs):
            if moments is not None:
                moments.half = count % 2
            joined = torch.from_numpy(np.concatenate([hidden[n] for n in pack.texts]))
            ended = self._block(ops, joined.to(self.compute.device), number, pack.lengths)
            parts = torch.split(ended.cpu(), list(pack.lengths))
            after |= {n: part.numpy() for n, part in zip(pack.texts, parts, strict=True)}
        return [after[n] for n in range(len(hidden))]

    def _block(self, ops: TorchOps, x: Tensor, number: int, lengths: tuple[int, ...]) -> Tensor:
        decoder = self.described.config.decoder
        positions = np.concatenate([np.arange(length) for length in lengths])
        tables = rope_tables(positions, decoder.head_dim, decoder.rope_theta)
        cos, sin = (torch.from_numpy(table).to(x.device) for table in tables)

        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            q, k = rotate_half(q, cos, sin), rotate_half(k, cos, sin)
            return causal_attention(q, k, v, lengths)

        ended: Tensor = self.described.release.bodies.decoder_layer(ops, x, decoder, number, attend)
        return ended
