"""Weights that are sparse and compressed at once, and palettes of vectors.

A sparse weight is a mask and the values where it is 1, in row-major order. Palettes and scales lie
on the grid of the whole weight, so values that are looked up or scaled keep that weight.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.dtypes import Array

from .values import ExpandedWeights, SparseWeight, StoredWeight, Weight


class SparseCodes(StoredWeight):
    """Integer codes where `mask` is 1, and 0 elsewhere."""

    def __init__(
        self, mask: Weight, nonzero: StoredWeight, key: Hashable, kept: ExpandedWeights
    ) -> None:
        Weight.__init__(self, mask.shape, key, kept)
        self.element = nonzero.element
        self._sparse = SparseWeight(mask, nonzero, key, kept)

    def rows(self, begin: int, end: int) -> Array:
        """See `Weight.rows`; integers, as those of a `StoredWeight`."""
        return self._sparse.rows(begin, end).astype(np.intp)

    def packed_rows(self, begin: int, end: int) -> Array | None:
        """None: rows are not stored one after the other."""
        return None


class Interleaved(Weight):
    """Equally shaped weights, element by element along `axis`: the first of each, the second …"""

    def __init__(
        self, parts: Sequence[Weight], axis: int, key: Hashable, kept: ExpandedWeights
    ) -> None:
        shape = list(parts[0].shape)
        self._axis = axis % len(shape)
        shape[self._axis] *= len(parts)
        super().__init__(tuple(shape), key, kept)
        self._parts = parts

    def rows(self, begin: int, end: int) -> Array:
        """See `Weight.rows`."""
        count = 1 if self._axis else len(self._parts)
        first, last = begin // count, -(-end // count)
        stacked = np.stack([part.rows(first, last) for part in self._parts], self._axis + 1)
        rows = stacked.reshape((last - first) * count, *self.shape[1:])
        return rows[begin - first * count : end - first * count]


class Masked(Weight):
    """The values of `whole` where `mask` is 1, and zeros elsewhere."""

    def __init__(self, mask: Weight, whole: Weight, key: Hashable, kept: ExpandedWeights) -> None:
        if mask.shape != whole.shape:
            raise InputError(
                f"A sparse weight has a mask of shape {mask.shape} and values for {whole.shape}: "
                "the package is damaged; copy or export it again."
            )
        super().__init__(whole.shape, key, kept)
        self.whole = whole
        self.mask = mask

    def rows(self, begin: int, end: int) -> Array:
        """See `Weight.rows`."""
        kept = self.mask.rows(begin, end) != 0
        return np.where(kept, self.whole.rows(begin, end), np.float32(0))


class Nonzero(Weight):
    """The `count` values of a masked weight where its mask is 1, one after the other."""

    def __init__(self, masked: Masked, count: int, key: Hashable, kept: ExpandedWeights) -> None:
        super().__init__((count,), key, kept)
        self.whole = masked.whole
        self._mask = masked.mask

    def rows(self, begin: int, end: int) -> Array:
        """See `Weight.rows`; the whole weight is expanded for it."""
        last = self.whole.shape[0]
        values = self.whole.rows(0, last)[self._mask.rows(0, last) != 0]
        return np.asarray(values.reshape(self.shape)[begin:end])
