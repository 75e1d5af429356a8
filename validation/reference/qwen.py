"""Qwen2 or Qwen3 decoder with a static key/value cache in plain PyTorch, names as published.

In: input embeddings and the position of the first of them. Out: hidden states or logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models.config import DecoderConfig


@dataclass
class KeyValueCache:
    """Keys and values of every layer: (layers, kv_heads, context, head_dim)."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, config: DecoderConfig, context_length: int) -> KeyValueCache:
        """A zeroed cache for `context_length` positions."""
        shape = (config.num_layers, config.num_kv_heads, context_length, config.head_dim)
        return cls(torch.zeros(shape), torch.zeros(shape))

    def write(self, layer: int, position: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (kv_heads, S, head_dim) rows from `position`; return all rows up to their end."""
        end = position + k.shape[1]
        self.keys[layer, :, position:end] = k
        self.values[layer, :, position:end] = v
        return self.keys[layer, :, :end], self.values[layer, :, :end]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, over the last axis."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(…, size) -> (…, size)."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rope_frequencies(config: DecoderConfig) -> Tensor:
    """theta^(−2m/head_dim) for m = 0 … head_dim/2 − 1."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    return 1.0 / (config.rope_theta**exponents)


def rotate(x: Tensor, positions: Tensor, frequencies: Tensor) -> Tensor:
    """Rotary embedding in the rotate-half form: (heads, S, head_dim) with positions (S,)."""
    angles = positions[:, None].float() * frequencies
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Attention(nn.Module):
    """Grouped-query attention; Qwen3 norms every query and key head, Qwen2 has biases."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        size, dim = config.hidden_size, config.head_dim
        self.config = config
        self.q_proj = nn.Linear(size, config.num_heads * dim, bias=config.qkv_bias)
        self.k_proj = nn.Linear(size, config.num_kv_heads * dim, bias=config.qkv_bias)
        self.v_proj = nn.Linear(size, config.num_kv_heads * dim, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.num_heads * dim, size, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(dim, config.rms_norm_eps)

    def forward(self, x: Tensor, position: int, cache: KeyValueCache, layer: int) -> Tensor:
        """(S, hidden) -> (S, hidden), causal, with the cache's rows before `position`."""
        dim = self.config.head_dim
        q, k, v = (
            projection(x).unflatten(-1, (-1, dim)).transpose(0, 1)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # (heads, S, head_dim)
        positions = torch.arange(position, position + x.shape[0])
        frequencies = rope_frequencies(self.config)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = (rotate(x, positions, frequencies) for x in (q, k))
        k, v = cache.write(layer, position, k, v)
        groups = self.config.num_heads // self.config.num_kv_heads
        k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        scores = q @ k.transpose(-1, -2) * dim**-0.5
        future = torch.arange(k.shape[1])[None, :] > positions[:, None]
        attended = scores.masked_fill(future, float("-inf")).softmax(-1) @ v
        return self.o_proj(attended.transpose(0, 1).flatten(1))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(S, hidden) -> (S, hidden)."""
        gate = functional.silu(self.gate_proj(x))
        return self.down_proj(gate * self.up_proj(x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.stream_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.stream_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, position: int, cache: KeyValueCache, layer: int) -> Tensor:
        """(S, hidden) -> (S, hidden)."""
        x = x + self.self_attn(self.input_layernorm(x), position, cache, layer)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class QwenModel(nn.Module):
    """Embedding table, blocks, final norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.stream_eps)


class Qwen(nn.Module):
    """The language model."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.model = QwenModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def run_layers(
        self, x: Tensor, position: int, cache: KeyValueCache, layers: range | None = None
    ) -> Tensor:
        """(S, hidden) through `layers` (all by default), without the final norm."""
        for layer in range(len(self.model.layers)) if layers is None else layers:
            x = self.model.layers[layer](x, position, cache, layer)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """(S, hidden) out of the last layer -> (S, vocab)."""
        return self.lm_head(self.model.norm(x))  # type: ignore[no-any-return]
