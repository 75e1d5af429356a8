"""Stored bytes -> arrays. Values narrower than a byte are packed little end first, without regard
to rows or bytes."""

from __future__ import annotations

from math import prod

import numpy as np

from .dtypes import Array, ElementType


def unpack(packed: Array, bits: int, start: int, count: int) -> Array:
    """Return values `start` … `start + count` of a uint8 stream of `bits`-wide values, as uint8.

    Value i occupies bits i·bits … (i+1)·bits of the stream, least significant bit first.
    """
    first_bit = start * bits
    data = packed[first_bit // 8 : -(-(first_bit + count * bits) // 8)]
    if bits == 8:
        return np.asarray(data)
    if 8 % bits == 0:
        per_byte = 8 // bits
        shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
        values = (data[:, None] >> shifts) & np.uint8((1 << bits) - 1)
        skipped = start % per_byte
        return np.asarray(values.reshape(-1)[skipped : skipped + count])
    stream = np.unpackbits(data, bitorder="little")[first_bit % 8 :][: count * bits]
    weights = (1 << np.arange(bits)).astype(np.uint8)
    return np.asarray(stream.reshape(count, bits) @ weights)


def sign_extend(values: Array, bits: int) -> Array:
    """Read `bits`-wide two's complement values held in uint8 as int8."""
    shift = 8 - bits
    return (values << np.uint8(shift)).view(np.int8) >> np.int8(shift)


def decode(packed: Array, element: ElementType, shape: tuple[int, ...]) -> Array:
    """Stored bytes -> values in the type that they are computed in (floats: float32)."""
    if element.stored is None:
        values = unpack(packed, element.bits, 0, prod(shape))
        values = sign_extend(values, element.bits) if element.is_signed else values
    else:
        values = packed.view(element.stored)
    return values.astype(element.computed).reshape(shape)
