"""One block of a Qwen2 or Qwen3 decoder, for any kind of key/value cache."""

from __future__ import annotations

from collections.abc import Callable

from export.graphs.graph import Linear, Ops, Parameter, Value
from export.graphs.parameters import stored
from export.models.config import DecoderConfig

# Queries, keys, values (heads, before the rotary embedding) and layer n -> attention output.
Attend = Callable[[Value, Value, Value, int], Value]


def decoder_layer(ops: Ops, x: Value, config: DecoderConfig, n: int, attend: Attend) -> Value:
    """Apply block `n`; `attend` does the rotary embedding and uses the cache."""
    size, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    layer, eps = f"llm.model.layers.{n}", config.rms_norm_eps
    q_rows, kv_rows = config.num_heads * dim, config.num_kv_heads * dim

    def weight(name: str, rows: int, columns: int) -> Parameter:
        return stored(f"{layer}.{name}.weight", rows, columns)

    def norm(y: Value, name: str) -> Value:
        return ops.rms_norm(y, stored(f"{layer}.{name}.weight", size), config.stream_eps)

    def heads(y: Value, count: int, name: str) -> Value:
        y = ops.heads(y, count)
        gain = stored(f"{layer}.self_attn.{name}.weight", dim)
        return ops.head_rms_norm(y, gain, eps) if config.qk_norm else y

    def projection(name: str, rows: int) -> Linear:
        bias = stored(f"{layer}.self_attn.{name}.bias", rows) if config.qkv_bias else None
        return weight(f"self_attn.{name}", rows, size), bias

    # Functions of their own, so that what they compute on the way is not kept.
    def attended(y: Value) -> Value:
        rows = {"q_proj": q_rows, "k_proj": kv_rows, "v_proj": kv_rows}
        q, k, v = ops.linears(y, [projection(*item) for item in rows.items()])
        q, k = heads(q, config.num_heads, "q_norm"), heads(k, config.num_kv_heads, "k_norm")
        return attend(q, k, ops.heads(v, config.num_kv_heads), n)

    def gated(y: Value) -> Value:
        names = ("mlp.gate_proj", "mlp.up_proj")
        gate, up = ops.linears(y, [(weight(name, inner, size), None) for name in names])
        return ops.multiply(ops.silu(gate), up)

    y = attended(norm(x, "input_layernorm"))
    x = ops.add(x, ops.linear(y, weight("self_attn.o_proj", size, q_rows)))
    y = gated(norm(x, "post_attention_layernorm"))
    return ops.add(x, ops.linear(y, weight("mlp.down_proj", size, inner)))
