"""The 3D resampler: features of all patches in, image embeddings out."""

from __future__ import annotations

from collections.abc import Callable

from export.graphs.graph import Ops, Value
from export.graphs.parameters import row_block, stored, transposed, vector_block
from export.models.config import LAYER_NORM_EPS, ModelConfig


def resample(
    ops: Ops, features: Value, scores: Callable[[Value], Value], config: ModelConfig
) -> Value:
    """Return the image embeddings of all patches' features.

    `scores` maps the projected features, which hold no positions yet, to the attention scores of
    all heads and queries.
    """
    size, attn = config.decoder.hidden_size, "resampler.attn"

    def norm(y: Value, which: str) -> Value:
        scale = stored(f"resampler.{which}.weight", size)
        return ops.layer_norm(y, scale, stored(f"resampler.{which}.bias", size), LAYER_NORM_EPS)

    kv_proj = stored("resampler.kv_proj.weight", size, config.vision.hidden_size)
    x = norm(ops.linear(features, kv_proj), "ln_kv")
    v_rows = (2 * size, 3 * size)
    values = ops.linear(
        x,
        row_block(f"{attn}.v_proj.weight", f"{attn}.in_proj_weight", *v_rows, size),
        vector_block(f"{attn}.v_proj.bias", f"{attn}.in_proj_bias", *v_rows),
    )
    attended = ops.weighted_values(scores(x), values, config.resampler_heads)
    out_proj = stored(f"{attn}.out_proj.weight", size, size), stored(f"{attn}.out_proj.bias", size)
    return ops.linear(
        norm(ops.linear(attended, *out_proj), "ln_post"), transposed("resampler.proj", size, size)
    )
