"""The forms in which a weight is stored: lookup tables, rows or blocks with scales, floats.

Each form is a class, listed in `FORMS` by the name that specifications use. It dequantizes to
float32, whole or a block of rows at a time, and knows its size on disk. It does not know how the
numbers were chosen, nor which file format they will be written to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from mobile_runtime.errors import InputError

_PER_WORD = 8  # eight indices of b bits fill b whole bytes, for every b from 1 to 8

UInt8 = NDArray[np.uint8]
Int8 = NDArray[np.int8]
Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]


def pack_indices(indices: NDArray[np.integer[Any]], bits: int) -> UInt8:
    """Pack indices (any shape, 0 … 2**bits - 1) in C order into ceil(count * bits / 8) bytes.

    Element 0 takes the lowest bits of byte 0, as in Core ML's weight blob (uint1 … uint8; 5 and 7
    bits are not Core ML types and follow the same rule). Unused bits of the last byte are zero.
    """
    _check_bits(bits)
    if indices.size and not 0 <= indices.min() <= indices.max() < 1 << bits:
        raise InputError(
            f"indices from {indices.min()} to {indices.max()} do not fit {bits} bits; "
            f"give 0 to {(1 << bits) - 1}."
        )
    flat = np.ascontiguousarray(indices, dtype=np.uint8).reshape(-1)
    if bits == 8:
        return flat.copy()
    padded = np.zeros(-(-flat.size // _PER_WORD) * _PER_WORD, np.uint8)
    padded[: flat.size] = flat
    words = np.zeros(padded.size // _PER_WORD, "<u8")
    for place in range(_PER_WORD):
        words |= padded[place::_PER_WORD].astype("<u8") << np.uint64(place * bits)
    stream = words.view(np.uint8).reshape(-1, 8)[:, :bits].reshape(-1)
    return stream[: packed_size(flat.size, bits)].copy()


def unpack_indices(packed: UInt8, bits: int, count: int) -> UInt8:
    """Return the first `count` indices of a stream that `pack_indices` made, shape (count,)."""
    _check_bits(bits)
    if packed.size < packed_size(count, bits):
        raise InputError(
            f"{packed.size} bytes hold fewer than {count} indices of {bits} bits; "
            f"give {packed_size(count, bits)} bytes."
        )
    stream = packed.reshape(-1)[: packed_size(count, bits)]
    if bits == 8:
        return stream.copy()
    size = -(-count // _PER_WORD)
    padded = np.zeros(size * bits, np.uint8)
    padded[: stream.size] = stream
    spread = np.zeros((size, 8), np.uint8)
    spread[:, :bits] = padded.reshape(size, bits)
    words = spread.view("<u8").reshape(-1)
    indices = np.empty((size, _PER_WORD), np.uint8)
    for place in range(_PER_WORD):
        indices[:, place] = (words >> np.uint64(place * bits)) & np.uint64((1 << bits) - 1)
    return indices.reshape(-1)[:count]


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` indices of `bits` bits take."""
    return -(-count * bits // 8)


@dataclass(frozen=True, eq=False)
class LutWeight:
    """Indices into one table of 2**bits float16 values for every `group_size` rows.

    Element (r, c) is `lut[r // group_size, index(r, c)]`; `packed` is `pack_indices` of the
    row-major indices, without a gap between rows.
    """

    form: ClassVar[str] = "lut"
    default_method: ClassVar[str] = "kmeans"
    group_axis: ClassVar[int] = 0  # a group is `group_size` rows
    rows_are_independent: ClassVar[bool] = False

    packed: UInt8  # (ceil(rows * columns * bits / 8),)
    lut: Float16  # (rows / group_size, 2**bits)
    bits: int
    group_size: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        _check_bits(self.bits)
        rows, columns = self.shape
        if rows % self.group_size or self.lut.shape != (rows // self.group_size, 1 << self.bits):
            raise InputError(
                f"a table of shape {self.lut.shape} does not fit {rows} rows in groups of "
                f"{self.group_size} with {self.bits} bits; give (rows / group_size, 2**bits)."
            )
        if self.packed.shape != (packed_size(rows * columns, self.bits),):
            raise InputError(
                f"packed indices of shape {self.packed.shape} do not fit a weight of "
                f"{rows} × {columns} with {self.bits} bits; use pack_indices."
            )

    @property
    def layout(self) -> tuple[str, int, int, bool]:
        """Form, bits, group size and symmetry, as a specification has them."""
        return self.form, self.bits, self.group_size, True

    def padded(self, rows: int) -> LutWeight:
        """The same with groups of index 0 and tables of 0 appended, up to `rows` rows."""
        added, columns = rows - self.shape[0], self.shape[1]
        indices = np.concatenate([self.indices(), np.zeros((added, columns), np.uint8)])
        lut = np.zeros((rows // self.group_size, 1 << self.bits), np.float16)
        lut[: len(self.lut)] = self.lut
        packed = pack_indices(indices, self.bits)
        return LutWeight(packed, lut, self.bits, self.group_size, (rows, columns))

    def indices(self) -> UInt8:
        """Unpack all indices, (rows, columns)."""
        return self._indices(0, self.shape[0])

    def rows(self, begin: int, end: int) -> Float32:
        """Dequantize rows begin … end - 1, (end - begin, columns); the others stay packed."""
        groups = np.arange(begin, end)[:, None] // self.group_size
        return self.lut.astype(np.float32)[groups, self._indices(begin, end)]

    def dequantize(self) -> Float32:
        """Expand the whole weight, (rows, columns)."""
        return self.rows(0, self.shape[0])

    @staticmethod
    def stored_bytes(shape: tuple[int, ...], bits: int, group_size: int, symmetric: bool) -> int:
        """Bytes on disk of a matrix: indices and tables."""
        rows, columns = shape
        return packed_size(rows * columns, bits) + 2 * (rows // group_size << bits)

    def _indices(self, begin: int, end: int) -> UInt8:
        columns = self.shape[1]
        # Unpacking starts at the last whole word before the block, `skip` elements too early.
        word, skip = divmod(begin * columns, _PER_WORD)
        count = (end - begin) * columns
        flat = unpack_indices(self.packed[word * self.bits :], self.bits, skip + count)
        return flat[skip:].reshape(end - begin, columns)


@dataclass(frozen=True, eq=False)
class AffineWeight:
    """Integers of `bits` bits with scales: the common part of rows and blocks.

    Element (r, c) is `q[r, c] * scale[r, c // block] + offset[r, c // block]`, rounded once; no
    offset means 0. `q` holds one integer per byte whatever `bits` is; a backend packs it.
    """

    rows_are_independent: ClassVar[bool] = True

    q: Int8  # (rows, columns)
    scale: Float16 | Float32  # (rows, columns / block); one block spans the row if (rows, 1)
    offset: Float32 | None  # the shape of scale
    bits: int

    def __post_init__(self) -> None:
        _check_bits(self.bits)
        rows, columns = self.q.shape
        blocks = self.scale.shape[-1]
        if self.scale.shape != (rows, blocks) or columns % blocks:
            raise InputError(
                f"scales of shape {self.scale.shape} do not fit a weight of {rows} × {columns}; "
                "give (rows, 1) or (rows, blocks) with blocks dividing the columns."
            )
        if self.offset is not None and self.offset.shape != self.scale.shape:
            raise InputError(
                f"offsets of shape {self.offset.shape} do not match the scales' "
                f"{self.scale.shape}; give one for each scale."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.q.shape
        return rows, columns

    def padded(self, rows: int) -> Self:
        """The same with rows of zeros appended, up to `rows` rows; their scales are 1."""
        added = ((0, rows - len(self.q)), (0, 0))
        offset = None if self.offset is None else np.pad(self.offset, added)
        scale: Any = np.pad(self.scale, added, constant_values=1)
        return replace(self, q=np.pad(self.q, added), scale=scale, offset=offset)

    def rows(self, begin: int, end: int) -> Float32:
        """Dequantize rows begin … end - 1, (end - begin, columns)."""
        columns, blocks = self.q.shape[1], self.scale.shape[1]
        q = self.q[begin:end].reshape(-1, blocks, columns // blocks)
        scale = self.scale[begin:end, :, None]
        if self.offset is None:
            return (q.astype(np.float32) * scale).reshape(-1, columns)
        products = q * scale.astype(np.float64)  # exact
        return (products + self.offset[begin:end, :, None]).reshape(-1, columns).astype(np.float32)

    def dequantize(self) -> Float32:
        """Expand the whole weight, (rows, columns)."""
        return self.rows(0, self.q.shape[0])


@dataclass(frozen=True, eq=False)
class RowWeight(AffineWeight):
    """Integers with one scale per row."""

    form: ClassVar[str] = "rows"
    default_method: ClassVar[str] = "minmax"
    group_axis: ClassVar[int] = 0

    @property
    def layout(self) -> tuple[str, int, int, bool]:
        """Form, bits, group size and symmetry, as a specification has them."""
        return self.form, self.bits, 1, self.offset is None

    @staticmethod
    def stored_bytes(shape: tuple[int, ...], bits: int, group_size: int, symmetric: bool) -> int:
        """Bytes on disk of a matrix: integers, one float16 scale per row."""
        rows, columns = shape
        return packed_size(rows * columns, bits) + 2 * rows


@dataclass(frozen=True, eq=False)
class BlockWeight(AffineWeight):
    """Integers with one scale, or scale and offset, per block of a row's columns."""

    form: ClassVar[str] = "blocks"
    default_method: ClassVar[str] = "least_squares"
    group_axis: ClassVar[int] = 1  # a group is `group_size` columns

    @property
    def layout(self) -> tuple[str, int, int, bool]:
        """Form, bits, group size and symmetry, as a specification has them."""
        return self.form, self.bits, self.shape[1] // self.scale.shape[1], self.offset is None

    @staticmethod
    def stored_bytes(shape: tuple[int, ...], bits: int, group_size: int, symmetric: bool) -> int:
        """Bytes on disk of a matrix: integers, float32 scales, float32 offsets if asymmetric."""
        rows, columns = shape
        per_block = 4 if symmetric else 8
        return packed_size(rows * columns, bits) + per_block * rows * (columns // group_size)


@dataclass(frozen=True, eq=False)
class DenseWeight:
    """A weight that is not quantized; any rank, the first axis counts as rows."""

    form: ClassVar[str] = "floats"
    default_method: ClassVar[str] = "round"
    group_axis: ClassVar[int] = 0
    rows_are_independent: ClassVar[bool] = True

    values: Float16 | Float32

    @property
    def layout(self) -> tuple[str, int, int, bool]:
        """Form, bits, group size and symmetry, as a specification has them."""
        return self.form, 8 * self.values.itemsize, 1, True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return self.values.shape

    def padded(self, rows: int) -> DenseWeight:
        """The same with rows of zeros appended, up to `rows` rows."""
        added = [(0, rows - len(self.values)), *[(0, 0)] * (self.values.ndim - 1)]
        values: Any = np.pad(self.values, added)
        return DenseWeight(values)

    def rows(self, begin: int, end: int) -> Float32:
        """Rows begin … end - 1 in float32, (end - begin, …)."""
        return self.values[begin:end].astype(np.float32)

    def dequantize(self) -> Float32:
        """The whole weight in float32."""
        return self.values.astype(np.float32)

    @staticmethod
    def stored_bytes(shape: tuple[int, ...], bits: int, group_size: int, symmetric: bool) -> int:
        """Bytes on disk of any shape."""
        return bits // 8 * int(np.prod(shape))


Weight = LutWeight | RowWeight | BlockWeight | DenseWeight
# By the name that specifications use.
FORMS: dict[str, type[Weight]] = {
    kind.form: kind for kind in (LutWeight, RowWeight, BlockWeight, DenseWeight)
}


def _check_bits(bits: int) -> None:
    if bits not in range(1, 9):
        raise InputError(f"{bits} bits are not possible; use 1 to 8.")
