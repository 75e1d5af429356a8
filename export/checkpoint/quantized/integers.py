"""Matrices of integers, or floats of eight bits, with a scale and at times a zero point for a group
of columns: GPTQ, AWQ, compressed-tensors, fp8.

An element is (q − zero) · scale, rounded to the type of the scale: the difference is exact, so that
one rounding happens, as in the tools themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from export.checkpoint.source import TensorInfo
from export.quant.recipe import QuantSpec
from export.quant.weights import BlockWeight, Weight

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

    @property
    def spec(self) -> QuantSpec | None:
        """The specification of its blocks, if every target of blocks stores such ones."""
        columns, groups = self.shape[1], int(self.group_of[-1]) + 1
        width = columns // groups
        if self.bits != _BITS or width not in _WIDTHS:
            return None
        if not np.array_equal(self.group_of, np.arange(columns) // width):
            return None
        return QuantSpec("blocks", self.bits, width, self.zero is None)

    def block(self, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end`, in the type of the scale."""
        values = self.integers(begin, end).astype(np.float32)
        if self.zero is not None:
            values -= self.zero(begin, end).astype(np.float32)[:, self.group_of]
        values *= self.scale(begin, end).astype(np.float32)[:, self.group_of]
        return values.astype(self.dtype)

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
    return (values.astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
