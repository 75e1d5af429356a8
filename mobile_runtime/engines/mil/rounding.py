"""Rounding of float32 arrays to the values that half precision can represent, in place.

This is about twice as fast as a cast to float16 and back, which numpy does one by one.
"""

from __future__ import annotations

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

_CAST_BELOW = 2048  # elements; for fewer the fixed cost of ten ufuncs exceeds the cast's
_BLOCK = 1 << 14  # elements; the three buffers of a block stay in the processor's L2 cache
_EXPONENT = np.uint32(0x7F80_0000)
_SIGN = np.uint32(0x8000_0000)
_SMALLEST = np.uint32((127 - 14) << 23)  # 2^-14, the smallest normal half
_LARGEST = np.uint32((127 + 15) << 23)  # 2^15, exponent of the largest half
_TO_MAGIC = np.uint32((13 << 23) | 0x40_0000)  # 2^e -> 1.5 * 2^(e+13)
_UP, _DOWN = np.float32(2.0**112), np.float32(2.0**-112)


def round_to_half(x: Array) -> Array:
    """Round float32 `x` to half precision (nearest, ties to even; overflow is ±inf), in place.

    Returns `x`, or a rounded copy if `x` is small, cannot be written or is not contiguous.
    """
    if x.size < _CAST_BELOW:
        return x.astype(np.float16).astype(np.float32)
    if not (x.flags.writeable and x.flags.c_contiguous):
        x = x.copy(order="C")
    flat = x.reshape(-1)
    bits, rounded = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.float32)
    for begin in range(0, flat.size, _BLOCK):
        block = flat[begin : begin + _BLOCK]
        _round_block(block, bits[: block.size], rounded[: block.size])
    return x


def _round_block(x: Array, bits: Array, rounded: Array) -> None:
    """Round one block. Adding 1.5·2^(e+13) to a value of exponent e leaves 10 fraction bits.

    Scaling by 2^112 and back turns what exceeds 65504 into infinity; the sign bit is carried over
    because a negative value that rounds to zero must stay negative.
    """
    raw = x.view(np.uint32)
    np.bitwise_and(raw, _EXPONENT, out=bits)
    np.maximum(bits, _SMALLEST, out=bits)
    np.minimum(bits, _LARGEST, out=bits)
    np.add(bits, _TO_MAGIC, out=bits)
    magic = bits.view(np.float32)
    np.add(x, magic, out=rounded)
    np.subtract(rounded, magic, out=rounded)
    np.multiply(rounded, _UP, out=rounded)
    np.multiply(rounded, _DOWN, out=rounded)
    np.bitwise_and(raw, _SIGN, out=raw)
    np.bitwise_or(raw, rounded.view(np.uint32), out=raw)
