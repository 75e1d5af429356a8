"""Blocks of ggml's types -> float32.

Bytes of a block (n, size) become its values (n, count). `d` is the block's float16 scale, `m` or
`dmin` that of its offsets; the K types have eight or sixteen scales of a few bits besides. Products
are float32 and rounded one by one, as in ggml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
_FOURS, _TWOS, _ONES = (np.arange(0, 8, bits, dtype=np.uint8) for bits in (4, 2, 1))


@dataclass(frozen=True)
class BlockType:
    """A type of ggml: values and bytes of a block, and how they are expanded; None for floats,
    which are of the type `dtype`."""

    name: str
    count: int
    size: int
    dtype: str = "float32"
    expand: Callable[[UInt8], Float32] | None = None


def _half(blocks: UInt8, at: int) -> Float32:
    """(n, 1): the float16 at byte `at` of each block."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _fields(octets: UInt8, shifts: UInt8, run: int) -> UInt8:
    """Fields of bytes (n, bytes), the lowest of a run of `run` bytes first: (n, fields)."""
    mask = np.uint8((1 << int(shifts[1])) - 1)
    runs = octets.reshape(len(octets), -1, 1, run)
    return (runs >> shifts[:, None] & mask).reshape(len(octets), -1)


def _high_bits(blocks: UInt8, at: int) -> UInt8:
    """(n, 32): 16 for each value whose bit is set in the four bytes at `at`."""
    bits = np.unpackbits(np.ascontiguousarray(blocks[:, at : at + 4]), axis=1, bitorder="little")
    return bits << np.uint8(4)


def q4_0(blocks: UInt8) -> Float32:
    """d · (q − 8)."""
    return _half(blocks, 0) * signed_nibbles(blocks)


def signed_nibbles(blocks: UInt8) -> NDArray[np.int8]:
    """The integers of Q4_0, (n, 32), −8 … 7."""
    return _fields(blocks[:, 2:], _FOURS, 16).astype(np.int8) - np.int8(8)


def _q4_1(blocks: UInt8) -> Float32:
    return _half(blocks, 0) * _fields(blocks[:, 4:], _FOURS, 16) + _half(blocks, 2)


def _q5_0(blocks: UInt8) -> Float32:
    q = _fields(blocks[:, 6:], _FOURS, 16) | _high_bits(blocks, 2)
    return _half(blocks, 0) * (q.astype(np.int8) - np.int8(16))


def _q5_1(blocks: UInt8) -> Float32:
    q = _fields(blocks[:, 8:], _FOURS, 16) | _high_bits(blocks, 4)
    return _half(blocks, 0) * q + _half(blocks, 2)


def _q8_0(blocks: UInt8) -> Float32:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8)


def _scaled(scales: NDArray[Any], q: NDArray[Any]) -> Float32:
    """Values (n, 256) times scales (n, groups) of their groups."""
    cut = q.reshape(*scales.shape, -1)
    return (scales[:, :, None] * cut.astype(np.float32)).reshape(len(q), -1)


def _less(values: Float32, offsets: Float32) -> Float32:
    """Values (n, 256) less offsets (n, groups) of their groups."""
    return (values.reshape(*offsets.shape, -1) - offsets[:, :, None]).reshape(len(values), -1)


def _q2_k(blocks: UInt8) -> Float32:
    scales, q = blocks[:, :16], _fields(blocks[:, 16:80], _TWOS, 32)
    d, dmin = _half(blocks, 80), _half(blocks, 82)
    return _less(_scaled(d * (scales & np.uint8(15)), q), dmin * (scales >> np.uint8(4)))


def _q3_k(blocks: UInt8) -> Float32:
    """Sixteen scales of six bits: their low halves in eight bytes, two high bits each in four."""
    low = _fields(blocks[:, 96:104], _FOURS, 8)
    high = _fields(blocks[:, 104:108], _TWOS, 4)
    scales = (low | high << np.uint8(4)).astype(np.int8) - np.int8(32)
    q = _fields(blocks[:, 32:96], _TWOS, 32) | _fields(blocks[:, :32], _ONES, 32) << np.uint8(2)
    return _scaled(_half(blocks, 108) * scales, q.astype(np.int8) - np.int8(4))


def _six_bits(octets: UInt8) -> tuple[UInt8, UInt8]:
    """Eight scales and eight offsets of six bits from twelve bytes: the first four of both whole,
    of the others the high bits above them and the low ones in the last four bytes."""
    first, second, third = octets[:, :4], octets[:, 4:8], octets[:, 8:]
    low, top, top_bits = np.uint8(63), np.uint8(48), np.uint8(2)
    scales = third & np.uint8(15) | first >> top_bits & top
    offsets = third >> np.uint8(4) | second >> top_bits & top
    return np.hstack([first & low, scales]), np.hstack([second & low, offsets])


def _q4_k(blocks: UInt8) -> Float32:
    scales, offsets = _six_bits(blocks[:, 4:16])
    q = _fields(blocks[:, 16:], _FOURS, 32)
    return _less(_scaled(_half(blocks, 0) * scales, q), _half(blocks, 2) * offsets)


def _q5_k(blocks: UInt8) -> Float32:
    scales, offsets = _six_bits(blocks[:, 4:16])
    high = _fields(blocks[:, 16:48], _ONES, 32) << np.uint8(4)
    q = _fields(blocks[:, 48:], _FOURS, 32) | high
    return _less(_scaled(_half(blocks, 0) * scales, q), _half(blocks, 2) * offsets)


def _q6_k(blocks: UInt8) -> Float32:
    high = _fields(blocks[:, 128:192], _TWOS, 32) << np.uint8(4)
    q = (_fields(blocks[:, :128], _FOURS, 64) | high).astype(np.int8) - np.int8(32)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return _scaled(_half(blocks, 208) * scales, q)


Q4_0 = BlockType("Q4_0", 32, 18, expand=q4_0)
# By the number that a file has for them.
BLOCK_TYPES: dict[int, BlockType] = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2, "float16"),
    2: Q4_0,
    3: BlockType("Q4_1", 32, 20, expand=_q4_1),
    6: BlockType("Q5_0", 32, 22, expand=_q5_0),
    7: BlockType("Q5_1", 32, 24, expand=_q5_1),
    8: BlockType("Q8_0", 32, 34, expand=_q8_0),
    10: BlockType("Q2_K", 256, 84, expand=_q2_k),
    11: BlockType("Q3_K", 256, 110, expand=_q3_k),
    12: BlockType("Q4_K", 256, 144, expand=_q4_k),
    13: BlockType("Q5_K", 256, 176, expand=_q5_k),
    14: BlockType("Q6_K", 256, 210, expand=_q6_k),
    30: BlockType("BF16", 1, 2, "bfloat16"),
}
