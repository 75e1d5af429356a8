"""Constants that are expanded only when needed: dense, palettized and affine-quantized weights.

A weight has `shape` and gives float32 by `rows(begin, end)` (of axis 0) or whole by `dense()`.
For products it is a matrix (shape[0], the rest), which compiled kernels read as it is stored.
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

from . import number_kernels, table_kernels
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

    @property
    def is_compiled(self) -> bool:
        """Whether kernels read the stored bytes, so that nothing is won by keeping an expansion."""
        return False

    def factor(self) -> Weight | Array:
        """What to multiply with: an expansion if it is small or kernels cannot read the stored
        bytes, as far as the budget goes; else the weight itself."""
        if self.is_compiled and 4 * prod(self.shape) > _ALWAYS_KEPT:
            return self
        kept = self.kept()
        return self if kept is None else kept

    def arrange(self, columns: Array) -> Array:
        """`columns` (K, n), K being the elements of a row, in the order in which `fill` and
        `multiply` take them."""
        return columns

    def fill(self, begin: int, end: int, out: Array) -> None:
        """Rows `begin` … `end` into out (end − begin, K), arranged."""
        out[...] = self.rows(begin, end).reshape(out.shape)

    @property
    def multiplies(self) -> bool:
        """Whether there is a kernel for `multiply`."""
        return False

    def multiply(self, x: Array, begin: int, end: int, out: Array) -> None:
        """Rows `begin` … `end` times the arranged x (K,), into these places of out (rows,)."""
        raise NotImplementedError

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

    @property
    def is_compiled(self) -> bool:
        """See `Weight.is_compiled`."""
        aligned = self._packed.ctypes.data % 2 == 0
        return self.element.name == "float16" and aligned and prod(self.shape) > 0

    @property
    def multiplies(self) -> bool:
        """See `Weight.multiplies`."""
        return self.is_compiled

    def fill(self, begin: int, end: int, out: Array) -> None:
        """See `Weight.fill`."""
        if self.is_compiled:
            number_kernels.expand_halves(self._halves()[begin:end].reshape(-1), out.reshape(-1))
        else:
            super().fill(begin, end, out)

    def multiply(self, x: Array, begin: int, end: int, out: Array) -> None:
        """See `Weight.multiply`."""
        number_kernels.multiply_halves(self._halves(), x, out, begin, end)

    def _halves(self) -> Array:
        return self._packed.view("<u2").reshape(self.shape[0], -1)

    def packed_rows(self, begin: int, end: int) -> Array | None:
        """The bytes of rows `begin` … `end`, or None if rows do not start at a byte."""
        bits = prod(self.shape[1:]) * self.element.bits
        if bits % 8:
            return None
        return self._packed[begin * bits // 8 : end * bits // 8]

    def packed_matrix(self) -> Array | None:
        """The bytes of all rows, (rows, bytes), or None if rows do not start at a byte, or if the
        bytes are not as many as the shape says."""
        packed, bits = self.packed_rows(0, self.shape[0]), prod(self.shape) * self.element.bits
        if packed is None or bits == 0 or 8 * packed.size != bits:
            return None
        return packed.reshape(self.shape[0], -1)


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
        by_rows = prod(lut.shape[1:-1]) == 1
        self._by_units = aligned and by_rows
        # Kernels check nothing: what does not fit is left to numpy, which does.
        fits = by_rows and lut.shape[-1] == 1 << self._bits
        fits = fits and lut.shape[0] > 0 and self.shape[0] % lut.shape[0] == 0
        packed = indices.packed_matrix() if fits else None
        self._matrix: table_kernels.Palettized | None = None
        if packed is not None:
            tables = table_kernels.filled_tables(self._lut.reshape(lut.shape[0], -1))
            per_group = self.shape[0] // lut.shape[0]
            self._matrix = table_kernels.Palettized(packed, tables, per_group)
            self._kernels = table_kernels.table_kernels(self._bits)

    @property
    def is_compiled(self) -> bool:
        """See `Weight.is_compiled`."""
        return self._matrix is not None

    @property
    def multiplies(self) -> bool:
        """See `Weight.multiplies`."""
        return self.is_compiled

    def arrange(self, columns: Array) -> Array:
        """See `Weight.arrange`."""
        if self._matrix is None:
            return columns
        return table_kernels.arranged_columns(columns, self._bits)

    def fill(self, begin: int, end: int, out: Array) -> None:
        """See `Weight.fill`."""
        if self._matrix is None:
            super().fill(begin, end, out)
        else:
            self._kernels.expand(self._matrix, out, begin)

    def multiply(self, x: Array, begin: int, end: int, out: Array) -> None:
        """See `Weight.multiply`."""
        assert self._matrix is not None
        self._kernels.multiply(self._matrix, x, out, begin, end)

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

    def are_of_rows(self, shape: tuple[int, ...]) -> bool:
        """Whether they divide each row of (shape[0], the rest) into equal runs of elements."""
        blocks = self.scale.shape
        if (self.offset is not None and self.offset.shape != blocks) or len(blocks) != len(shape):
            return False
        even = all(
            count and size and size % count == 0 for size, count in zip(shape, blocks, strict=True)
        )
        return even and prod(blocks[2:]) == 1


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
        self._packed: Array | None = None
        if isinstance(codes, StoredWeight) and blocks.are_of_rows(codes.shape):
            element = codes.element
            self._packed = codes.packed_matrix() if element.bits in (4, 8) else None
            self._kind = number_kernels.Integers(element.bits, element.is_signed, rounds)

    @property
    def is_compiled(self) -> bool:
        """See `Weight.is_compiled`."""
        return self._packed is not None

    def fill(self, begin: int, end: int, out: Array) -> None:
        """See `Weight.fill`."""
        if self._packed is None:
            super().fill(begin, end, out)
            return
        scale = self._scale.reshape(self._scale.shape[0], -1)
        offset = np.zeros_like(scale) if self._offset is None else self._offset.reshape(scale.shape)
        number_kernels.expand_integers(self._packed, self._kind, scale, offset, out, begin)

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
