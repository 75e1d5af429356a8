"""Statistics of a layer's inputs from a calibration, for methods that weight errors by them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
# Results for larger matrices are not kept: those of a wide layer, which no other matrix shares.
_KEPT_BYTES = 1 << 28
WHOLE = None  # names all inputs, where 0 and 1 name the halves


def diagonal_part(moments: Float32) -> Float32:
    """The matrix without what is off its diagonal."""
    return np.diag(moments.diagonal())


@dataclass(frozen=True, eq=False)
class Statistics:
    """Second moments of inputs x (columns,): means of x · xᵀ, (columns, columns) float32.

    `parts` are the means over the two halves of the inputs, of which a method may use one and judge
    its result by the other, or a single one over all; `counts` are their numbers of inputs.
    `independent` gives what is left of such a mean if the inputs' channels are taken as
    uncorrelated; the channels may be those of another basis. Matrices with the same inputs share
    one object, and what is computed from it once. `outputs`, which are those of one matrix, are
    second moments of the loss's gradient at what it gives, known within panels of consecutive rows:
    (rows of the panel, rows of the panel) float32 each.
    """

    parts: tuple[Float32, ...]
    counts: tuple[int, ...] = (1,)
    independent: Callable[[Float32], Float32] = diagonal_part
    outputs: tuple[Float32, ...] = ()
    _computed: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def has_halves(self) -> bool:
        """Whether there are two parts."""
        return len(self.parts) == 2

    def second_moments(self, part: int | None = WHOLE) -> Float32:
        """The mean over a part, or over all inputs, which is not kept: it may be large."""
        if not self.has_halves:
            return self.parts[0]
        if part is not WHOLE:
            return self.parts[part]
        shares = [np.float32(count / sum(self.counts)) for count in self.counts]
        whole: Float32 = self.parts[0] * shares[0]
        for begin in range(0, len(whole), 1024):  # no second matrix of that size
            rows = slice(begin, begin + 1024)
            whole[rows] += self.parts[1][rows] * shares[1]
        return whole

    def diagonal(self) -> Float32:
        """Means of x² over all inputs, (columns,)."""
        sums = [
            part.diagonal() * np.float32(count / sum(self.counts))
            for part, count in zip(self.parts, self.counts, strict=True)
        ]
        diagonal: Float32 = sum(sums[1:], start=sums[0])
        return diagonal

    def shrunk(self, part: int | None, shrinkage: float) -> Float32:
        """Second moments, moved towards their `independent` part by a share of 0 … 1."""
        moments = self.second_moments(part)
        diagonal = moments.diagonal().copy()
        correlated = np.float32(1 - shrinkage)
        if self.independent is diagonal_part:
            own = part is WHOLE and self.has_halves
            shrunk: Float32 = np.multiply(moments, correlated, out=moments if own else None)
            np.fill_diagonal(shrunk, diagonal)
            return shrunk
        independent = self.once(("independent", part), lambda: self.independent(moments))
        shrunk = moments * correlated
        shrunk += np.float32(shrinkage) * independent
        return shrunk

    def once(self, what: Hashable, compute: Callable[[], Any]) -> Any:
        """`what` is computed from these statistics: once for a narrow layer."""
        if what in self._computed:
            return self._computed[what]
        computed = compute()
        if self.parts[0].nbytes <= _KEPT_BYTES:
            self._computed[what] = computed
        return computed
