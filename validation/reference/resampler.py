"""Unified 3D resampler in plain PyTorch, parameter names as in the checkpoint (`resampler.`).

In: the features of one group of 1 to 6 frames and their position embeddings. Out: `num_queries`
embeddings for the decoder. Keys carry positions, values do not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models.config import LAYER_NORM_EPS, ModelConfig


class ResamplerAttention(nn.Module):
    """Parameters of torch's MultiheadAttention: q, k and v stacked in `in_proj_*`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * size))
        self.out_proj = nn.Linear(size, size)


class Resampler(nn.Module):
    """Cross-attention from learned queries to all patches of a group."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.decoder.hidden_size
        self.num_heads = config.resampler_heads
        self.query = nn.Parameter(torch.empty(config.num_queries, size))
        self.kv_proj = nn.Linear(config.vision.hidden_size, size, bias=False)
        self.attn = ResamplerAttention(size)
        self.ln_q = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        self.ln_kv = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        self.ln_post = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        self.proj = nn.Parameter(torch.empty(size, size))
        # The exporter's folded queries (heads·queries, D), in place of its own if they are set.
        self.key_query: Tensor | None = None

    def forward(self, features: Tensor, positions: Tensor) -> Tensor:
        """(N, vision hidden), (N, D) -> (num_queries, D), N the patches of all frames together."""
        x = self.ln_kv(self.kv_proj(features))
        scores = self.scores(x + positions)  # (heads, queries, N)
        v_weight = self.attn.in_proj_weight.chunk(3)[2]
        v_bias = self.attn.in_proj_bias.chunk(3)[2]
        values = functional.linear(x, v_weight, v_bias).view(len(x), self.num_heads, -1)
        attended = scores.softmax(-1) @ values.transpose(0, 1)  # (heads, queries, head_dim)
        out = self.attn.out_proj(attended.transpose(0, 1).flatten(1))
        return self.ln_post(out) @ self.proj  # type: ignore[no-any-return]

    def scores(self, keys: Tensor) -> Tensor:
        """(N, D) -> (heads, queries, N): scaled products of the queries with the keys."""
        if self.key_query is not None:
            return functional.linear(self.key_query, keys).view(self.num_heads, -1, len(keys))
        q_weight, k_weight, _ = self.attn.in_proj_weight.chunk(3)
        q_bias, k_bias, _ = self.attn.in_proj_bias.chunk(3)
        q, k = (
            functional.linear(x, weight, bias).view(len(x), self.num_heads, -1).transpose(0, 1)
            for x, weight, bias in (
                (self.ln_q(self.query), q_weight, q_bias),
                (keys, k_weight, k_bias),
            )
        )
        return q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # type: ignore[no-any-return]
