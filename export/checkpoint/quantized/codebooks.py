"""bitsandbytes: four bits that index a table of 16 values (nf4, fp4), and rows of int8.

Four bits lie as one run of values, the first of two in the upper half of a byte, in blocks with a
scale each; with double quantization, scales are such values of eight bits themselves. An element of
int8 is q · scale / 127. Products are float32, then rounded to the type that the tool recorded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.checkpoint.quantized.config import Quantization
from export.checkpoint.quantized.parts import FLOATS, Layout, Parts
from export.checkpoint.source import TensorInfo

_STATE = "weight.quant_state.bitsandbytes__"
_STATES = (f"{_STATE}nf4", f"{_STATE}fp4")
_NESTED = ("weight.nested_absmax", "weight.nested_quant_map")
_LARGEST_BLOCK = 1 << 16
_DAMAGED = "the recorded state is damaged"


@dataclass(frozen=True, eq=False)
class CodebookMatrix:
    """`packed` holds two indices per byte into `table` (16,); each `block_size` of them share a
    scale: `scales`, or nested_table[scales] · nested_scales + nested_offset."""

    shape: tuple[int, int]
    dtype: str
    packed: np.ndarray
    table: np.ndarray
    block_size: int
    scales: np.ndarray
    nested: tuple[np.ndarray, np.ndarray, int, np.float32] | None  # table, scales, size, offset

    @property
    def info(self) -> TensorInfo:
        """Shape and type of the dequantized matrix."""
        return TensorInfo(self.shape, self.dtype)

    def block(self, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end`, in the recorded type."""
        columns = self.shape[1]
        first, last = begin * columns, end * columns
        octets = self.packed[first // 2 : -(-last // 2)]
        indices = np.stack([octets >> np.uint8(4), octets & np.uint8(15)], axis=-1).reshape(-1)
        values = self.table[indices[first % 2 :][: last - first]]
        start = first // self.block_size
        scales = self._scales(start, -(-last // self.block_size))
        values *= np.repeat(scales, self.block_size)[first - start * self.block_size :][
            : last - first
        ]
        return values.reshape(-1, columns).astype(self.dtype)

    def _scales(self, begin: int, end: int) -> np.ndarray:
        if self.nested is None:
            return self.scales[begin:end]
        table, scales, size, offset = self.nested
        products = table[self.scales[begin:end]] * scales[np.arange(begin, end) // size]
        return np.asarray(products + offset)


def open_four_bits(parts: Parts, config: Quantization) -> CodebookMatrix:
    """A matrix of nf4 or fp4."""
    state = _state(parts)
    shape, size, dtype = state.get("shape"), state.get("blocksize"), state.get("dtype")
    good = isinstance(shape, list) and len(shape) == 2 and all(map(_is_count, shape))
    parts.require(good and _is_count(size) and size <= _LARGEST_BLOCK and dtype in FLOATS, _DAMAGED)
    count = shape[0] * shape[1]
    # The bytes may be stored as if they were numbers of another type.
    packed = np.ascontiguousarray(parts.read("weight", "uint8", *FLOATS)).reshape(-1).view(np.uint8)
    table = parts.read("weight.quant_map", "float32")
    blocks = -(-count // size)
    nested = _NESTED[0] in parts
    scales = parts.read("weight.absmax", "uint8" if nested else "float32").reshape(-1)
    fits = len(packed) == -(-count // 2) and table.shape == (16,) and len(scales) == blocks
    parts.require(fits, "the parts do not fit each other")
    return CodebookMatrix(
        (shape[0], shape[1]),
        dtype,
        packed,
        table,
        size,
        scales,
        _nested(parts, state, blocks) if nested else None,
    )


def _state(parts: Parts) -> Any:
    """The object that the tool recorded."""
    name = next((name for name in _STATES if name in parts), "")
    parts.require(bool(name), "no quant_state")
    try:
        state = json.loads(parts.read(name, "uint8").tobytes().decode("utf-8"))
    except (ValueError, RecursionError):
        state = None
    parts.require(isinstance(state, dict), _DAMAGED)
    return state


def _nested(
    parts: Parts, state: Any, blocks: int
) -> tuple[np.ndarray, np.ndarray, int, np.float32]:
    size, offset = state.get("nested_blocksize"), state.get("nested_offset")
    good = _is_count(size) and isinstance(offset, int | float) and _NESTED[1] in parts
    parts.require(good, _DAMAGED)
    scales, table = (parts.read(name, "float32").reshape(-1) for name in _NESTED)
    parts.require(len(table) == 256 and len(scales) == -(-blocks // size), _DAMAGED)
    return table, scales, size, np.float32(offset)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@dataclass(frozen=True, eq=False)
class ByteMatrix:
    """Rows of int8 `q` with the largest absolute value of each, `largest`."""

    q: np.ndarray
    largest: np.ndarray

    @property
    def info(self) -> TensorInfo:
        """Shape and type of the dequantized matrix."""
        return TensorInfo(self.q.shape, "float32")

    def block(self, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end`, float32: two products, each rounded, as in the tool."""
        values = self.q[begin:end].astype(np.float32)
        values *= self.largest[begin:end, None]
        values *= np.float32(1 / 127)
        return values


def open_eight_bits(parts: Parts, config: Quantization) -> ByteMatrix:
    """A matrix of LLM.int8()."""
    q, largest = parts.read("weight", "int8"), parts.read("SCB", "float32").reshape(-1)
    parts.require(q.ndim == 2 and len(largest) == len(q), "the parts do not fit each other")
    if "weight_format" in parts:
        by_rows = not parts.read("weight_format", "uint8").any()
        parts.require(by_rows, "an order of int8 for one kind of GPU")
    return ByteMatrix(q, largest)


FOUR_BITS = Layout(
    "weight.absmax", ("weight", "weight.quant_map"), (*_NESTED, *_STATES), open_four_bits
)
EIGHT_BITS = Layout("SCB", ("weight",), ("weight_format",), open_eight_bits)
