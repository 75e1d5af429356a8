"""Batched forward passes over the modules of `validation.reference`, for training.

The modules run one picture or one sequence at a time; training wants many. The parameters are
theirs and the arithmetic is the same (tests compare the two).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from validation.reference.qwen import Attention, DecoderLayer, Qwen, RMSNorm, rope_frequencies
from validation.reference.resampler import Resampler
from validation.reference.siglip import EncoderLayer, VisionEncoder

_EXCLUDED = -1e9  # added to the score of a padded key


def encode_views(
    tower: VisionEncoder, patches: Tensor, ids: Tensor, valid: Tensor | None
) -> Tensor:
    """(V, L, 588), position ids (V, L), (V, L) bool if some are padded -> features (V, L, vision
    hidden)."""
    x, mask = cast(Tensor, tower.embeddings(patches, ids)), _mask(valid)
    for module in tower.encoder.layers:
        layer = cast(EncoderLayer, module)
        block, normed = layer.self_attn, layer.layer_norm1(x)
        projections = (block.q_proj, block.k_proj, block.v_proj)
        q, k, v = (_heads(projection(normed), block.num_heads) for projection in projections)
        x = x + block.out_proj(_attend(q, k, v, mask))
        x = x + layer.mlp(layer.layer_norm2(x))
    return cast(Tensor, tower.post_layernorm(x))


def resample(
    resampler: Resampler, features: Tensor, positions: Tensor, valid: Tensor | None
) -> Tensor:
    """Groups of patches (G, N, vision hidden), positions (G, N, D), (G, N) bool if some are padded
    -> (G, Q, D)."""
    x = resampler.ln_kv(resampler.kv_proj(features))
    query = resampler.ln_q(resampler.query).expand(len(x), -1, -1)
    weights = resampler.attn.in_proj_weight.chunk(3)
    biases = resampler.attn.in_proj_bias.chunk(3)
    q, k, v = (
        _heads(functional.linear(inputs, weight, bias), resampler.num_heads)
        for inputs, weight, bias in zip((query, x + positions, x), weights, biases, strict=True)
    )
    out = resampler.attn.out_proj(_attend(q, k, v, _mask(valid)))
    return cast(Tensor, resampler.ln_post(out) @ resampler.proj)


def run_decoder(model: Qwen, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, D) -> states (B, T, D) between the two halves of the layers, and after the final norm;
    rows are padded on the right."""
    layers = [cast(DecoderLayer, layer) for layer in model.model.layers]
    frequencies = rope_frequencies(layers[0].self_attn.config)
    angles = (torch.arange(embeddings.shape[1])[:, None] * frequencies).to(embeddings.device)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    half = len(layers) // 2
    middle = _run_layers(layers[:half], embeddings, cos, sin)
    return middle, _normed(model.model.norm, _run_layers(layers[half:], middle, cos, sin))


def _run_layers(layers: Sequence[DecoderLayer], x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    for layer in layers:
        x = x + _attend_causally(layer.self_attn, _normed(layer.input_layernorm, x), cos, sin)
        x = x + layer.mlp(_normed(layer.post_attention_layernorm, x))
    return x


def _normed(norm: RMSNorm, x: Tensor) -> Tensor:
    """The module's arithmetic in one operation if the device has it: each one costs a GPU a
    launch."""
    return functional.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)


def _heads(x: Tensor, count: int) -> Tensor:
    """(B, T, heads · dim) -> (B, heads, T, dim)."""
    return x.view(*x.shape[:-1], count, -1).transpose(1, 2)


def _mask(valid: Tensor | None) -> Tensor | None:
    """Mask (B, 1, 1, T) that is added to the scores of keys, None if all count."""
    if valid is None:
        return None
    return torch.zeros_like(valid, dtype=torch.float32).masked_fill(~valid, _EXCLUDED)[
        :, None, None
    ]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention to the keys that are not masked, heads joined again: (B, T, heads · dim)."""
    attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attended.transpose(1, 2).flatten(2)


def _attend_causally(block: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    config = block.config
    q = _rotate(_normed(block.q_norm, _heads(block.q_proj(x), config.num_heads)), cos, sin)
    k = _rotate(_normed(block.k_norm, _heads(block.k_proj(x), config.num_kv_heads)), cos, sin)
    v = _heads(block.v_proj(x), config.num_kv_heads)
    groups = config.num_heads // config.num_kv_heads
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return cast(Tensor, block.o_proj(attended.transpose(1, 2).flatten(2)))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
