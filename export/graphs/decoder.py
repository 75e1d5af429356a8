"""The Qwen3 decoder as packages of consecutive layers, each with `prefill` and `decode`.

The key/value cache holds row 2i (keys) and row 2i + 1 (values) for the i-th layer of the package.
As a state, the graph writes it in place; as an input, the graph reads it and returns the new rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from export.graphs.graph import Function, Graph, Ops, Value
from export.graphs.parameters import stored
from export.models.config import DecoderConfig
from mobile_runtime.bundle import Decoding, TensorSpec

CACHE = "key_value_cache"


@dataclass(frozen=True)
class _Context:
    """What every layer of one function shares."""

    inputs: Mapping[str, Value]
    mask: Value
    kv_cache: str
    new_rows: list[Value]


def decoder_layer(
    ops: Ops, x: Value, config: DecoderConfig, n: int, attention: tuple[_Context, int]
) -> Value:
    """Block `n`; `attention` says where its cache rows are."""
    size, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    layer, eps = f"llm.model.layers.{n}", config.rms_norm_eps
    q_rows, kv_rows = config.num_heads * dim, config.num_kv_heads * dim

    def linear(y: Value, name: str, rows: int, columns: int) -> Value:
        return ops.linear(y, stored(f"{layer}.{name}.weight", rows, columns))

    def norm(y: Value, name: str) -> Value:
        return ops.rms_norm(y, stored(f"{layer}.{name}.weight", size), eps)

    def head_norm(y: Value, name: str) -> Value:
        return ops.head_rms_norm(y, stored(f"{layer}.self_attn.{name}.weight", dim), eps)

    context, cache_row = attention
    cos, sin = context.inputs["cos"], context.inputs["sin"]
    h = norm(x, "input_layernorm")
    q = ops.heads(linear(h, "self_attn.q_proj", q_rows, size), config.num_heads)
    k = ops.heads(linear(h, "self_attn.k_proj", kv_rows, size), config.num_kv_heads)
    v = ops.heads(linear(h, "self_attn.v_proj", kv_rows, size), config.num_kv_heads)
    q = ops.rope(head_norm(q, "q_norm"), cos, sin)
    k = ops.rope(head_norm(k, "k_norm"), cos, sin)
    q, k = ops.scaled(q, k, dim**-0.5)
    attended = _attend(ops, (q, ops.rows(k), ops.rows(v)), context, cache_row)
    x = ops.add(x, linear(attended, "self_attn.o_proj", size, q_rows))
    h = norm(x, "post_attention_layernorm")
    gate = ops.silu(linear(h, "mlp.gate_proj", inner, size))
    h = ops.multiply(gate, linear(h, "mlp.up_proj", inner, size))
    return ops.add(x, linear(h, "mlp.down_proj", size, inner))


def _attend(ops: Ops, qkv: Sequence[Value], context: _Context, row: int) -> Value:
    q, k, v = qkv
    cache = context.inputs[CACHE]
    if context.kv_cache == "state":
        position = context.inputs["position"]
        keys = [ops.write_cache(cache, k, row, position)]
        values = [ops.write_cache(cache, v, row + 1, position)]
    else:
        keys = [ops.cache_row(cache, row), k]
        values = [ops.cache_row(cache, row + 1), v]
        context.new_rows.extend([k, v])
    return ops.grouped_attention(q, keys, values, context.mask)


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
    def body(ops: Ops, inputs: Mapping[str, Value]) -> Mapping[str, Value]:
        groups = config.num_heads // config.num_kv_heads
        mask = ops.grouped_mask(inputs["attention_mask"], groups)
        context = _Context(inputs, mask, decoding.kv_cache, [])
        x = inputs["hidden_states"]
        for i, n in enumerate(layers):
            x = decoder_layer(ops, x, config, n, (context, 2 * i))
        outputs = {"output_hidden_states": x}
        if context.new_rows:
            outputs["new_key_value_rows"] = ops.stack_rows(context.new_rows)
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
