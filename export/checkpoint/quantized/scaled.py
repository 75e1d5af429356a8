"""compressed-tensors and fp8: integers or floats of eight bits with scales beside them.

Packed integers are raised by 2**(bits − 1) and lie in 32-bit words from the lowest bits on: weights
along the columns, zero points along the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from export.checkpoint.quantized.config import Quantization, block_sizes
from export.checkpoint.quantized.integers import IntegerMatrix, Rows, centred, unpacked
from export.checkpoint.quantized.parts import FLOATS, Layout, Parts

_NOT_FITTING = "the parts do not fit each other"
# Scales of activations, which change no weight.
_OF_ACTIVATIONS = (
    *("input_scale", "input_zero_point", "output_scale", "output_zero_point"),
    "activation_scale",
)


def open_packed(parts: Parts, config: Quantization) -> IntegerMatrix:
    """A matrix of packed integers (pack-quantized)."""
    packed = parts.read("weight_packed", "int32")
    shape = parts.read("weight_shape", "int64", "int32").reshape(-1)
    parts.require(packed.ndim == 2 and len(shape) == 2 and shape.min() > 0, _NOT_FITTING)
    rows, columns = int(shape[0]), int(shape[1])
    width = packed.shape[1]
    bits = next((b for b in (4, 8) if -(-columns * b // 32) == width), 0)
    parts.require(len(packed) == rows and bits > 0, "bits other than 4 and 8")
    scale, groups = _by_rows(parts, "weight_scale", rows, *FLOATS)
    group_of = _group_of(parts, columns, groups)
    zero = _packed_zero(parts, bits, rows, groups) if "weight_zero_point" in parts else None
    return IntegerMatrix(
        (rows, columns),
        bits,
        parts.read("weight_scale", *FLOATS).dtype.name,
        lambda begin, end: centred(unpacked(packed[begin:end], bits)[:, :columns], bits),
        scale,
        zero,
        group_of,
    )


def open_scaled(name: str, parts: Parts, config: Quantization) -> IntegerMatrix:
    """A matrix of int8 or float8 as they are, with a scale called `name` per tensor, row, group or
    block. (The fp8 of DeepSeek calls what it multiplies with an inverse.)"""
    q = parts.read("weight", "int8", "float8_e4m3fn")
    parts.require(q.ndim == 2 and q.size > 0, _NOT_FITTING)
    rows, columns = q.shape
    given = parts.read(name, *FLOATS)
    block = next(_blocks(given.shape, q.shape, config), None)
    if block is None:
        scale, groups = _by_rows(parts, name, rows, *FLOATS)
        group_of = _group_of(parts, columns, groups)
    else:
        scale, group_of = _by_blocks(given, block[0]), np.arange(columns) // block[1]
    zero: Rows | None = None
    if "weight_zero_point" in parts:
        zero, count = _by_rows(parts, "weight_zero_point", rows, "int8")
        parts.require(count == group_of[-1] + 1, _NOT_FITTING)

    def values(begin: int, end: int) -> np.ndarray:
        return q[begin:end]

    return IntegerMatrix((rows, columns), 8, given.dtype.name, values, scale, zero, group_of)


def _by_rows(parts: Parts, name: str, rows: int, *dtypes: str) -> tuple[Rows, int]:
    """Rows of a part with a value per tensor, row, or row and group; and the number of groups."""
    given = parts.read(name, *dtypes)
    table = given.reshape(1, 1) if given.size == 1 else given.reshape(len(given), -1)
    parts.require(
        len(table) in (1, rows) and (table.shape[1] == 1 or len(table) == rows), _NOT_FITTING
    )
    spread = np.broadcast_to(table, (rows, table.shape[1]))

    def read(begin: int, end: int) -> np.ndarray:
        return spread[begin:end]

    return read, table.shape[1]


def _by_blocks(table: np.ndarray, tall: int) -> Rows:
    def read(begin: int, end: int) -> np.ndarray:
        return table[np.arange(begin, end) // tall]

    return read


def _blocks(
    scales: tuple[int, ...], shape: tuple[int, ...], config: Quantization
) -> Iterator[tuple[int, int]]:
    """Those of the configured sizes of blocks that cut a matrix into as many as it has scales."""
    for tall, wide in block_sizes(config):
        if scales == (-(-shape[0] // tall), -(-shape[1] // wide)):
            yield tall, wide


def _group_of(parts: Parts, columns: int, groups: int) -> np.ndarray:
    parts.require(groups > 0 and columns % groups == 0, _NOT_FITTING)
    if "weight_g_idx" in parts:
        named = parts.read("weight_g_idx", "int32", "int64").reshape(-1)
        if named.size and -1 not in named:  # else it was never set
            good = named.size == columns and named.min() >= 0 and named.max() == groups - 1
            parts.require(bool(good), "a g_idx that is not of its groups")
            return named
    return np.arange(columns) // (columns // groups)


def _packed_zero(parts: Parts, bits: int, rows: int, groups: int) -> Rows:
    words, per_word = parts.read("weight_zero_point", "int32"), 32 // bits
    parts.require(words.shape == (-(-rows // per_word), groups), _NOT_FITTING)

    def read(begin: int, end: int) -> np.ndarray:
        first = begin // per_word
        fields = unpacked(words[first : -(-end // per_word)].T, bits)
        return centred(fields[:, begin - first * per_word : end - first * per_word].T, bits)

    return read


PACKED = Layout(
    "weight_packed",
    ("weight_scale", "weight_shape"),
    ("weight_zero_point", "weight_g_idx", *_OF_ACTIVATIONS),
    open_packed,
)
_BESIDES = ("weight_zero_point", "weight_g_idx", *_OF_ACTIVATIONS)
SCALED = Layout("weight_scale", ("weight",), _BESIDES, partial(open_scaled, "weight_scale"))
INVERSELY = Layout(
    "weight_scale_inv", ("weight",), _BESIDES, partial(open_scaled, "weight_scale_inv")
)
