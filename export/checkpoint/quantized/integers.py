"""Matrices of integers, or floats of eight bits, with a scale and at times a zero point for a group
of columns: GPTQ, AWQ, compressed-tensors, fp8.

An element is (q − zero) · scale, rounded to the type of the scale: the difference is exact, so that
one rounding happens, as in the tools themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from export.checkpoint.source import TensorInfo
from export.quant.recipe import QuantSpec
from export.quant.weights import BlockWeight, Weight

Float32 = NDArray[np.float32]
Rows = Callable[[int, int], np.ndarray]
_BITS, _WIDTHS = 4, (32, 64, 128)  # of blocks that every target of blocks stores and multiplies


@dataclass(frozen=True, eq=False)
class IntegerMatrix:
    """`integers` gives rows of q (rows, columns), about zero if they are integers of few bits;
    `scale` and `zero` those of (rows, groups), no zero meaning 0. `group_of` (columns,) names the
    group of each column."""

    shape: tuple[int, int]
    bits: int
    dtype: str
    integers: Rows
    scale: Rows
    zero: Rows | None
    group_of: np.ndarray

    @property
    def info(self) -> TensorInfo:
        """Shape and type of the dequantized matrix."""
        return TensorInfo(self.shape, self.dtype)

    @cached_property
    def _width(self) -> int | None:
        """Columns of a group, if groups are equal and in the order of the columns."""
        columns = self.shape[1]
        width = columns // (int(self.group_of[-1]) + 1)
        runs = width > 0 == columns % width and np.array_equal(
            self.group_of, np.arange(columns) // width
        )
        return width if runs else None

    @property
    def spec(self) -> QuantSpec | None:
        """The specification of its blocks, if every target of blocks stores such ones."""
        width = self._width
        if self.bits != _BITS or width not in _WIDTHS:
            return None
        return QuantSpec("blocks", self.bits, width, self.zero is None)

    def block(self, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end`, in the type of the scale."""
        values = self.integers(begin, end).astype(np.float32)
        if self.zero is not None:
            self._apply(np.subtract, values, self.zero(begin, end))
        self._apply(np.multiply, values, self.scale(begin, end))
        return values.astype(self.dtype)

    def _apply(self, operation: np.ufunc, values: Float32, by_group: np.ndarray) -> None:
        """Change `values` (rows, columns) in place by numbers (rows, groups)."""
        numbers = by_group.astype(np.float32)
        if self._width is None:
            operation(values, numbers[:, self.group_of], out=values)
        else:
            cut = values.reshape(*numbers.shape, self._width)
            operation(cut, numbers[:, :, None], out=cut)

    def weight(self, begin: int, end: int) -> Weight:
        """Rows `begin` to `end` as blocks: the same integers and scales."""
        scale = np.ascontiguousarray(self.scale(begin, end).astype(np.float32))
        offset = None
        if self.zero is not None:
            offset = -scale * self.zero(begin, end).astype(np.float32)  # exact
        q = np.ascontiguousarray(self.integers(begin, end).astype(np.int8))
        return BlockWeight(q, scale, offset, self.bits)


def unpacked(words: np.ndarray, bits: int) -> np.ndarray:
    """(n, words) 32-bit words -> (n, words · 32 / bits) uint8, from the lowest bits on."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets
    fields = np.stack([octets & np.uint8(15), octets >> np.uint8(4)], axis=-1)
    return fields.reshape(len(octets), 2 * octets.shape[1])


def centred(values: np.ndarray, bits: int) -> np.ndarray:
    """uint8 of `bits` bits -> int8 about zero."""
    return (values - np.uint8(1 << (bits - 1))).view(np.int8)  # modulo 256
