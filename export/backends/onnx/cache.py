"""Attention over a key/value cache that is written in place.

Past and present are one buffer of the context's length; the mask tells how much of it is filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from onnx import TensorProto

from export.backends.onnx.ops import OnnxOps, Tensor
from export.graphs.cache_scales import Kind, cache_scales
from export.models.config import DecoderConfig
from mobile_runtime.bundle import PAST, PRESENT, Decoding, cache_name
from mobile_runtime.model.positions import rope_tables

CONTEXT_AXIS = "max_sequence_length"
KINDS: tuple[Kind, ...] = ("key", "value")


class Cache(Protocol):
    """The cache of all layers while a graph is built."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
        """Rotate q and k, store k and v in the cache of layer `n`, attend to all of it."""


def open_cache(
    ops: OnnxOps, inputs: Mapping[str, Tensor], config: DecoderConfig, decoding: Decoding
) -> Cache:
    """Return the cache for the profile of `ops`."""
    tables = _rope_tables(ops, config, decoding.context_length)
    if not ops.contrib:
        return _Scattered(ops, inputs, config, tables)
    return _Grouped(ops, inputs, config, tables, decoding.kv_cache == "int8" and ops.rounds)


def _rope_tables(ops: OnnxOps, config: DecoderConfig, context: int) -> tuple[str, str]:
    """Cosines and sines (context, head_dim / 2); the other half would be a copy."""
    tables = rope_tables(np.arange(context), config.head_dim, config.rope_theta)
    cos, sin = (np.ascontiguousarray(table[:, : config.head_dim // 2]) for table in tables)
    return ops.builder.table("rope_cos", cos), ops.builder.table("rope_sin", sin)


@dataclass
class _Grouped:
    """`GroupQueryAttention`, which rotates and stores by itself."""

    ops: OnnxOps
    inputs: Mapping[str, Tensor]
    config: DecoderConfig
    tables: tuple[str, str]
    int8: bool

    def __post_init__(self) -> None:
        ops, mask = self.ops, self.inputs["attention_mask"].name
        axis, one = ops.builder.constant([1], np.int64), ops.builder.constant(1, np.int64)
        filled = ops.emit("Sub", ops.emit("ReduceSum", mask, axis, keepdims=0), one)
        self._filled = ops.emit("Cast", filled, to=TensorProto.INT32)  # last position of each row
        length = ops.emit("Gather", ops.emit("Shape", mask), one, axis=0)
        self._total = ops.emit("Cast", length, to=TensorProto.INT32)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
        ops, config = self.ops, self.config
        past = [self.inputs[cache_name(PAST, n, kind)].name for kind in KINDS]
        present = [cache_name(PRESENT, n, kind) for kind in KINDS]
        queries, keys, values = (ops.joined(x).name for x in (q, k, v))
        scales, types = self._quantization(n)
        out = ops.builder.node(
            "GroupQueryAttention",
            [queries, keys, values, *past, self._filled, self._total, *self.tables, *scales],
            outputs=[f"attended_{n}", *present],
            contrib=True,
            num_heads=config.num_heads,
            kv_num_heads=config.num_kv_heads,
            do_rotary=1,
            **types,
        )
        return Tensor(out[0], config.num_heads * config.head_dim)

    def _quantization(self, n: int) -> tuple[list[str], dict[str, Any]]:
        """Further inputs and attributes for an 8-bit cache."""
        if not self.int8:
            return [], {}
        vectors = [cache_scales(self.config, n, kind) for kind in KINDS]
        kind = "PER_CHANNEL"
        types = {"k_quant_type": kind, "v_quant_type": kind, "kv_cache_bit_width": 8}
        unused = [""] * 3  # position ids, bias, sinks
        return [*unused, *(self.ops.vector(v, inline=True) for v in vectors)], types


@dataclass
class _Scattered:
    """Standard operations: rotate, scatter into the cache, attend with a mask by length."""

    ops: OnnxOps
    inputs: Mapping[str, Tensor]
    config: DecoderConfig
    tables: tuple[str, str]

    def __post_init__(self) -> None:
        ops, mask = self.ops, self.inputs["attention_mask"].name
        axis, one = ops.builder.constant([1], np.int64), ops.builder.constant(1, np.int64)
        zero = ops.builder.constant(0, np.int64)
        self._filled = ops.emit("ReduceSum", mask, axis, keepdims=0)  # (batch,)
        shape = ops.emit("Shape", self.inputs["inputs_embeds"].name)
        length = ops.emit("Gather", shape, one, axis=0)
        self._begin = ops.emit("Sub", self._filled, length)
        steps = ops.emit("Range", zero, length, one)
        begins = ops.emit("Unsqueeze", self._begin, axis)
        self._positions = ops.emit("Add", begins, steps)  # (batch, length)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
        ops, config = self.ops, self.config
        queries, keys = self._rotated(q), self._rotated(k)
        values = ops.emit("Transpose", v.name, perm=[0, 2, 1, 3])
        stored = [self._store(keys, n, "key"), self._store(values, n, "value")]
        out = ops.emit("Attention", queries, *stored, "", "", "", self._filled, is_causal=1)
        back = ops.emit("Transpose", out, perm=[0, 2, 1, 3])
        return ops.joined(Tensor(back, config.head_dim, config.num_heads))

    def _rotated(self, x: Tensor) -> str:
        heads = self.ops.emit("Transpose", x.name, perm=[0, 2, 1, 3])
        return self.ops.emit("RotaryEmbedding", heads, *self.tables, self._positions)

    def _store(self, rows: str, n: int, kind: str) -> str:
        past, present = self.inputs[cache_name(PAST, n, kind)].name, cache_name(PRESENT, n, kind)
        self.ops.builder.node(
            "TensorScatter", [past, rows, self._begin], outputs=[present], axis=-2, mode="linear"
        )
        return present
