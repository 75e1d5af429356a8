"""Stored bytes -> arrays. Values narrower than a byte are packed from the least significant bit on,
across the ends of rows and bytes."""

from __future__ import annotations

from math import prod

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array, ElementType

# Bits of a value -> bits that are looked up at once: whole values, in tables that fit the cache.
UNIT_BITS = {1: 8, 2: 8, 3: 12, 4: 8, 6: 12, 8: 8}


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


def read_units(packed: Array, bits: int) -> Array:
    """Read a contiguous uint8 stream as units of 8 bits, or of 12 (whole pairs of them) as uint16.

    A pair of 12-bit units fills three bytes: the first is the low 12 bits of the 16 at byte 0, the
    second the high 12 bits of the 16 at byte 1.
    """
    if bits == 8:
        return packed
    pairs = packed.size // 3
    units = np.empty((pairs, 2), np.uint16)
    first, second = (np.ndarray((pairs,), "<u2", packed.data, byte, (3,)) for byte in (0, 1))
    np.bitwise_and(first, np.uint16(0xFFF), out=units[:, 0])
    np.right_shift(second, np.uint16(4), out=units[:, 1])
    return units.reshape(-1)


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
