"""The decoder as packages of consecutive layers, each with static `prefill` and `decode`.

Rows 2i and 2i + 1 of the key/value cache are the keys and values of the package's i-th layer. A
cache that is a state is written in place; one that is an input is read, and the new rows returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from export.graphs.bodies import Bodies
from export.graphs.graph import CacheOps, Function, Graph, Value
from export.models.config import DecoderConfig
from mobile_runtime.bundle import CACHE, Decoding, TensorSpec


@dataclass(frozen=True)
class _Cache:
    """The cache of one function's layers; row 2i holds the keys of the i-th of them."""

    ops: CacheOps
    inputs: Mapping[str, Value]
    mask: Value
    first_layer: int
    scale: float
    in_state: bool
    new_rows: list[Value]

    def attend(self, q: Value, k: Value, v: Value, n: int) -> Value:
        """Store the layer's keys and values, attend to all of them."""
        ops, cache, row = self.ops, self.inputs[CACHE], 2 * (n - self.first_layer)
        cos, sin = self.inputs["cos"], self.inputs["sin"]
        q, k = ops.scaled(ops.rope(q, cos, sin), ops.rope(k, cos, sin), self.scale)
        k, v = ops.to_rows(k), ops.to_rows(v)
        if self.in_state:
            position = self.inputs["position"]
            keys = [ops.write_cache(cache, k, row, position)]
            values = [ops.write_cache(cache, v, row + 1, position)]
        else:
            keys = [ops.cache_row(cache, row), k]
            values = [ops.cache_row(cache, row + 1), v]
            self.new_rows.extend([k, v])
        return ops.grouped_attention(q, keys, values, self.mask)


def decoder_graph(
    bodies: Bodies, config: DecoderConfig, decoding: Decoding, layers: range, name: str
) -> Graph:
    """The package of `layers`."""
    shape = (2 * len(layers), config.num_kv_heads, decoding.context_length, config.head_dim)
    cache = TensorSpec(CACHE, shape, "float16")
    functions = (
        _function("prefill", decoding.prefill_length, bodies, config, decoding, layers),
        _function("decode", 1, bodies, config, decoding, layers),
    )
    states = (cache,) if decoding.kv_cache == "state" else ()
    return Graph(name, "decoder", functions, states, layers)


def _function(
    name: str,
    length: int,
    bodies: Bodies,
    config: DecoderConfig,
    decoding: Decoding,
    layers: range,
) -> Function:
    def body(ops: CacheOps, inputs: Mapping[str, Value]) -> Mapping[str, Value]:
        groups = config.num_heads // config.num_kv_heads
        cache = _Cache(
            ops=ops,
            inputs=inputs,
            mask=ops.grouped_mask(inputs["attention_mask"], groups),
            first_layer=layers.start,
            scale=config.head_dim**-0.5,
            in_state=decoding.kv_cache == "state",
            new_rows=[],
        )
        x = inputs["hidden_states"]
        for n in layers:
            x = bodies.decoder_layer(ops, x, config, n, cache.attend)
        outputs = {"output_hidden_states": x}
        if cache.new_rows:
            outputs["new_key_value_rows"] = ops.stack_rows(cache.new_rows)
        return outputs

    inputs, outputs = _specs(length, config, decoding, layers)
    return Function(name, inputs, outputs, body)


def _specs(
    length: int, config: DecoderConfig, decoding: Decoding, layers: range
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    rows, heads, context = 2 * len(layers), config.num_kv_heads, decoding.context_length
    hidden, rope = (1, config.hidden_size, 1, length), (1, 1, config.head_dim, length)
    in_state = decoding.kv_cache == "state"
    keys = context if in_state else context + length
    inputs = [
        TensorSpec("hidden_states", hidden, "float16"),
        TensorSpec("cos", rope, "float16"),
        TensorSpec("sin", rope, "float16"),
        TensorSpec("attention_mask", (1, 1, length, keys), "float16"),
    ]
    outputs = [TensorSpec("output_hidden_states", hidden, "float16")]
    if in_state:
        inputs.append(TensorSpec("position", (1,), "int32"))
    else:
        inputs.append(TensorSpec(CACHE, (rows, heads, context, config.head_dim), "float16"))
        new = TensorSpec("new_key_value_rows", (rows, heads, length, config.head_dim), "float16")
        outputs.append(new)
    return tuple(inputs), tuple(outputs)
