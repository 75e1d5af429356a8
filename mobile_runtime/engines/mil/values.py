"""Constants that are expanded only when needed: dense, palettized and affine-quantized weights.

A weight has `shape` and gives float32 by `rows(begin, end)` (of axis 0) or whole by `dense()`.
`ExpandedWeights` keeps whole expansions, in the order of first use, within a budget in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array, ElementType
from mobile_runtime.mlprogram.packing import UNIT_BITS, decode, read_units, sign_extend, unpack

from .rounding import round_to_half

_ALWAYS_KEPT = 1 << 16  # bytes; smaller expansions do not count: gains, biases and tables
_BLOCK_BYTES = 1 << 22  # of expanded rows in a block; measured: a block should stay in the cache


class ExpandedWeights:
    """Whole expansions by the identity of the stored data, up to `budget` bytes in all."""

    def __init__(self, budget: int) -> None:
        self._free = budget
        self._kept: dict[Hashable, Array] = {}

    def get(self, key: Hashable, nbytes: int, expand: Callable[[], Array]) -> Array | None:
        """Return the expansion of `key`, made now if it still fits into the budget, else None."""
        if key not in self._kept:
            if nbytes > _ALWAYS_KEPT:
                if nbytes > self._free:
                    return None
                self._free -= nbytes
            self._kept[key] = expand()
            self._kept[key].flags.writeable = False
        return self._kept[key]


class Weight:
    """A constant of shape `shape`; subclasses implement `rows`."""

    def __init__(self, shape: tuple[int, ...], key: Hashable, kept: ExpandedWeights) -> None:
        self.shape = shape
        self.key = key
        self._expanded = kept

    def rows(self, begin: int, end: int) -> Array:
        """Rows `begin` … `end` of axis 0, expanded to (end − begin, *shape[1:])."""
        raise NotImplementedError

    def kept(self) -> Array | None:
        """The whole expansion if the budget has room for it, else None."""
        nbytes = 4 * prod(self.shape)
        return self._expanded.get(self.key, nbytes, lambda: self.rows(0, self.shape[0]))

    def dense(self) -> Array:
        """The whole expansion, whatever it costs."""
        kept = self.kept()
        return self.rows(0, self.shape[0]) if kept is None else kept

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Half-open ranges of rows that cover axis 0, of about `_BLOCK_BYTES` each."""
        step = max(1, _BLOCK_BYTES // (4 * max(1, prod(self.shape[1:]))))
        step = step // 64 * 64 or step  # whole groups, so that no table is built twice
        for begin in range(0, self.shape[0], step):
            yield begin, min(begin + step, self.shape[0])


class StoredWeight(Weight):
    """Values as they are stored, `packed` being their bytes; sub-byte integers are unpacked."""

    def __init__(
        self,
        packed: Array,
        element: ElementType,
        shape: tuple[int, ...],
        key: Hashable,
        kept: ExpandedWeights,
    ) -> None:
        super().__init__(shape, key, kept)
        self.element = element
        self._packed = packed

    def rows(self, begin: int, end: int) -> Array:
        """See `Weight.rows`; integers keep their integer type."""
        element, width = self.element, prod(self.shape[1:])
        shape = (end - begin, *self.shape[1:])
        packed = self.packed_rows(begin, end)
        if packed is not None:
            return decode(packed, element, shape)
        codes = unpack(self._packed, element.bits, begin * width, (end - begin) * width)
        signed = sign_extend(codes, element.bits) if element.is_signed else codes
        return signed.reshape(shape)

    def packed_rows(self, begin: int, end: int) -> Array | None:
        """The bytes of rows `begin` … `end`, or None if rows do not start at a byte."""
        bits = prod(self.shape[1:]) * self.element.bits
        if bits % 8:
            return None
        return self._packed[begin * bits // 8 : end * bits // 8]


class StoredLut(Weight):
    """Palettized: `lut[group of the element][index]`.

    `lut` has the rank of the indices plus one: groups along each axis, then the entries.
    """

    def __init__(
        self, indices: StoredWeight, lut: Array, key: Hashable, kept: ExpandedWeights
    ) -> None:
        super().__init__(indices.shape, key, kept)
        self._indices = indices
        self._lut = lut.astype(np.float32)
        self._bits = indices.element.bits
        self._unit = UNIT_BITS[self._bits]
        # Units of 12 bits come in pairs of three bytes; every row must start with a pair.
        alignment = 8 if self._unit == 8 else 24
        aligned = prod(self.shape[1:]) * self._bits % alignment == 0
        self._by_units = aligned and prod(lut.shape[1:-1]) == 1

    def rows(self, begin: int, end: int) -> Array:
        """See `Weight.rows`."""
        packed = self._indices.packed_rows(begin, end) if self._by_units else None
        if packed is None:
            return self._look_up(begin, end)
        return self._look_up_units(read_units(packed, self._unit), begin, end)

    def _look_up_units(self, units: Array, begin: int, end: int) -> Array:
        """Look whole units up: a table per group, 2^unit entries of unit/bits values each."""
        per_unit = self._unit // self._bits
        per_group = self.shape[0] // self._lut.shape[0]
        out = np.empty((end - begin, *self.shape[1:]), np.float32)
        values = out.reshape(-1, per_unit)
        row_units = units.size // (end - begin)
        first, last = begin // per_group, -(-end // per_group)
        shifts = np.arange(per_unit) * self._bits
        codes = (np.arange(1 << self._unit)[:, None] >> shifts) & ((1 << self._bits) - 1)
        tables = self._lut.reshape(-1, 1 << self._bits)[first:last][:, codes]
        for group in range(first, last):
            low = (max(begin, group * per_group) - begin) * row_units
            high = (min(end, (group + 1) * per_group) - begin) * row_units
            table = tables[group - first]
            np.take(table, units[low:high], axis=0, out=values[low:high], mode="clip")
        return out

    def _look_up(self, begin: int, end: int) -> Array:
        """Look single values up; groups may lie along any axis."""
        codes = self._indices.rows(begin, end)
        entries = self._lut.shape[-1]
        position = np.zeros((1,) * codes.ndim, np.intp)
        for axis, groups in enumerate(self._lut.shape[:-1]):
            group = np.arange(self.shape[axis]) // (self.shape[axis] // groups)
            group = group[begin:end] if axis == 0 else group
            other = (1,) * (codes.ndim - axis - 1)
            position = position * groups + group.reshape(-1, *other)
        return np.asarray(np.take(self._lut.reshape(-1), position * entries + codes))


@dataclass(frozen=True)
class BlockScales:
    """Scale and offset of each block; both have the rank of the codes."""

    scale: Array
    offset: Array | None


class StoredAffine(Weight):
    """Quantized blockwise: `scale · (codes − offset)`; blocks divide each axis evenly."""

    def __init__(
        self, codes: Weight, blocks: BlockScales, key: Hashable, rounds: bool, kept: ExpandedWeights
    ) -> None:
        super().__init__(codes.shape, key, kept)
        self._codes = codes
        self._scale = blocks.scale.astype(np.float32)
        self._offset = None if blocks.offset is None else blocks.offset.astype(np.float32)
        self._rounds = rounds

    def rows(self, begin: int, end: int) -> Array:
        """See `Weight.rows`."""
        values = self._codes.rows(begin, end).astype(np.float32)
        if self._offset is not None:
            values -= self._spread(self._offset, begin, end)
        values *= self._spread(self._scale, begin, end)
        return round_to_half(values) if self._rounds else values

    def _spread(self, blocks: Array, begin: int, end: int) -> Array:
        """Repeat the values of `blocks` over the elements of their blocks, rows begin … end."""
        rows = np.arange(begin, end) // (self.shape[0] // blocks.shape[0])
        spread = blocks[rows]
        for axis, (size, count) in enumerate(zip(self.shape, blocks.shape, strict=True)):
            if axis and count not in (1, size):
                spread = np.repeat(spread, size // count, axis)
        return np.asarray(spread)


class SparseWeight(Weight):
    """Zeros, except where `mask` is 1: there, the next value of `nonzero` in row-major order."""

    def __init__(self, mask: Weight, nonzero: Weight, key: Hashable, kept: ExpandedWeights) -> None:
        super().__init__(mask.shape, key, kept)
        self._mask = mask
        self._nonzero = nonzero

    @cached_property
    def _starts(self) -> Array:
        """Position in `nonzero` of the first value of each row, and the end of the last."""
        counts = [np.count_nonzero(self._mask.rows(n, n + 1)) for n in range(self.shape[0])]
        return np.concatenate([[0], np.cumsum(counts)])

    def rows(self, begin: int, end: int) -> Array:
        """See `Weight.rows`."""
        out = np.zeros((end - begin, *self.shape[1:]), np.float32)
        first, last = int(self._starts[begin]), int(self._starts[end])
        out[self._mask.rows(begin, end) != 0] = self._nonzero.rows(first, last)
        return out


def dense(value: Any) -> Any:
    """`value` itself, or its whole expansion if it is a `Weight`."""
    return value.dense() if isinstance(value, Weight) else value
