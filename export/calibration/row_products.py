"""Products of the gradients of two rows of a matrix, averaged over positions.

Means of few positions fit these better than others. They are moved towards their diagonal by a
share of 0 … 1. With S₁ and S₂, what is off the diagonals of the means over two halves, and S over
all positions, 1 − ⟨S₁, S₂⟩ / ‖S‖² is the share that brings S nearest to the mean of very many.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_PANEL = 2048  # rows between which products are known: those of all rows of a wide layer are 0.6 GB
_ALONE = 0.5  # the share if there is one half


class RowProducts:
    """Sums over the positions of two halves, by panels of consecutive rows."""

    def __init__(self, rows: int) -> None:
        panels = range(0, rows, _PANEL)
        self._panels = [slice(first, min(first + _PANEL, rows)) for first in panels]
        self._sums: list[list[Tensor]] = [[], []]
        self._counts = [0, 0]

    def add(self, gradients: Tensor, half: int) -> None:
        """Add gradients (positions, rows) of a half, 0 or 1."""
        products = [gradients[:, panel].T @ gradients[:, panel] for panel in self._panels]
        self._counts[half] += len(gradients)
        if self._sums[half]:
            products = [own.add_(new) for own, new in zip(self._sums[half], products, strict=True)]
        self._sums[half] = products

    def shrunk(self) -> list[np.ndarray]:
        """The means by panel, shrunk, float16. That of the whole diagonal is 1."""
        whole = [sum(halves) / sum(self._counts) for halves in zip(*self._given(), strict=True)]
        share = self._share(whole)
        size = torch.cat([panel.diagonal() for panel in whole]).mean()
        for panel in whole:
            diagonal = panel.diagonal().clone()
            panel.mul_((1 - share) / size).diagonal().copy_(diagonal / size)
        return [panel.half().cpu().numpy() for panel in whole]

    def _given(self) -> list[list[Tensor]]:
        return [sums for sums in self._sums if sums]

    def _share(self, whole: list[Tensor]) -> float:
        if len(self._given()) < 2:
            return _ALONE
        common = sum(_off_diagonal(*halves) for halves in zip(*self._sums, strict=True))
        total = sum(_off_diagonal(panel, panel) for panel in whole)
        return min(1.0, max(0.0, 1 - common / (self._counts[0] * self._counts[1]) / total))


def _off_diagonal(left: Tensor, right: Tensor) -> float:
    """The sum of products of what is off the diagonals."""
    return float((left * right).sum() - (left.diagonal() * right.diagonal()).sum())
