"""Statistics of a layer's inputs from a calibration, for methods that weight errors by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
# Results for larger matrices are not kept: those of a wide layer, which no other matrix shares.
_KEPT_BYTES = 1 << 28


def diagonal_part(moments: Float32) -> Float32:
    """The matrix without what is off its diagonal."""
    return np.diag(moments.diagonal())


@dataclass(frozen=True, eq=False)
class Statistics:
    """The mean of x · xᵀ over inputs x (columns,): (columns, columns) float32.

    `halves` are the means over the two halves of the inputs, of which a method may use one and
    judge its result by the other. `independent` gives what is left of such a mean if the inputs'
    channels are taken as uncorrelated; the channels may be those of another basis. Matrices with
    the same inputs share one object, and what is computed from it once.
    """

    second_moments: NDArray[np.floating[Any]]
    halves: tuple[Float32, Float32] | None = None
    independent: Callable[[Float32], Float32] = diagonal_part
    _computed: dict[tuple[int, float], Any] = field(default_factory=dict, repr=False)

    def shrunk(self, moments: Float32, shrinkage: float) -> Float32:
        """`moments`, moved towards its `independent` part by a share of 0 … 1."""
        shrunk = moments * np.float32(1 - shrinkage)
        if self.independent is diagonal_part:
            np.fill_diagonal(shrunk, moments.diagonal())
        else:
            part = self.independent(moments)
            part *= np.float32(shrinkage)
            shrunk += part
        return shrunk

    def once(
        self, moments: Float32, shrinkage: float, compute: Callable[[Float32, float], Any]
    ) -> Any:
        """compute(moments, shrinkage), computed once for a narrow layer."""
        key = (id(moments), shrinkage)
        if key not in self._computed:
            computed = compute(moments, shrinkage)
            if moments.nbytes > _KEPT_BYTES:
                return computed
            self._computed[key] = computed
        return self._computed[key]
