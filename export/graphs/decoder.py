"""The Qwen3 decoder as packages of consecutive layers, each with `prefill` and `decode`.

The key/value cache holds row 2i (keys) and row 2i + 1 (values) for the i-th layer of the package.
As a state, the graph writes it in place; as an input, the graph reads it and returns the new rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from export.graphs.graph import CacheOps, Function, Graph, Ops, Parameter, Value
from export.graphs.parameters import stored
from export.models.config import DecoderConfig
from mobile_runtime.bundle import Decoding, TensorSpec

CACHE = "key_value_cache"


# Queries, keys and values of layer n, as heads before the rotation -> what they attend to.
Attend = Callable[[Value, Value, Value, int], Value]


def decoder_layer(ops: Ops, x: Value, config: DecoderConfig, n: int, attend: Attend) -> Value:
    """Block `n`; `attend` rotates queries and keys and knows the cache."""
    size, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    layer, eps = f"llm.model.layers.{n}", config.rms_norm_eps
    q_rows, kv_rows = config.num_heads * dim, config.num_kv_heads * dim

    def weight(name: str, rows: int, columns: int) -> Parameter:
        return stored(f"{layer}.{name}.weight", rows, columns)

    def norm(y: Value, name: str) -> Value:
        return ops.rms_norm(y, stored(f"{layer}.{name}.weight", size), eps)

    def head_norm(y: Value, name: str) -> Value:
        return ops.head_rms_norm(y, stored(f"{layer}.self_attn.{name}.weight", dim), eps)

    h = norm(x, "input_layernorm")
    q, k, v = ops.linears(
        h,
        [
            (weight("self_attn.q_proj", q_rows, size), None),
            (weight("self_attn.k_proj", kv_rows, size), None),
            (weight("self_attn.v_proj", kv_rows, size), None),
        ],
    )
    q = head_norm(ops.heads(q, config.num_heads), "q_norm")
    k = head_norm(ops.heads(k, config.num_kv_heads), "k_norm")
    attended = attend(q, k, ops.heads(v, config.num_kv_heads), n)
    x = ops.add(x, ops.linear(attended, weight("self_attn.o_proj", size, q_rows)))
    h = norm(x, "post_attention_layernorm")
    names = ("mlp.gate_proj", "mlp.up_proj")
    gate, up = ops.linears(h, [(weight(name, inner, size), None) for name in names])
    h = ops.multiply(ops.silu(gate), up)
    return ops.add(x, ops.linear(h, weight("mlp.down_proj", size, inner)))


@dataclass(frozen=True)
class _Cache:
    """The cache of one function's layers; row 2i is where the i-th of them keeps its keys."""

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
        k, v = ops.rows(k), ops.rows(v)
        if self.in_state:
            position = self.inputs["position"]
            keys = [ops.write_cache(cache, k, row, position)]
            values = [ops.write_cache(cache, v, row + 1, position)]
        else:
            keys = [ops.cache_row(cache, row), k]
            values = [ops.cache_row(cache, row + 1), v]
            self.new_rows.extend([k, v])
        return ops.grouped_attention(q, keys, values, self.mask)


def decoder_graph(config: DecoderConfig, decoding: Decoding, layers: range, name: str) -> Graph:
    """The package of `layers`."""
    shape = (2 * len(layers), config.num_kv_heads, decoding.context_length, config.head_dim)
    cache = TensorSpec(CACHE, shape, "float16")
    functions = (
        _function("prefill", decoding.prefill_length, config, decoding, layers),
        _function("decode", 1, config, decoding, layers),
    )
    states = (cache,) if decoding.kv_cache == "state" else ()
    return Graph(name, "decoder", functions, states, layers)


def _function(
    name: str, length: int, config: DecoderConfig, decoding: Decoding, layers: range
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
            x = decoder_layer(ops, x, config, n, cache.attend)
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
