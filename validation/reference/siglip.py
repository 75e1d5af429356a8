"""NaViT SigLIP vision tower in plain PyTorch, parameter names as in the checkpoint (`vpm.`).

In: patch values, position ids and a mask of one batch of views. Out: one feature per patch.
It does not know where the position ids come from.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from export.models.config import VisionConfig


class Embeddings(nn.Module):
    """A patch is 588 values in (c, y, x) order; the convolution over it is a linear layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size)
        self.position_embedding = nn.Embedding(config.position_buckets**2, config.hidden_size)

    def forward(self, patches: Tensor, position_ids: Tensor) -> Tensor:
        """(B, L, 3·p·p), (B, L) -> (B, L, hidden)."""
        weight = self.patch_embedding.weight.flatten(1)
        features = functional.linear(patches, weight, self.patch_embedding.bias)
        return features + self.position_embedding(position_ids)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Bidirectional multi-head attention with biases."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, L, hidden), (B, L) of bool -> (B, L, hidden); keys that are not valid are ignored."""
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, heads, L, head_dim)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        scores = scores.masked_fill(~valid[:, None, None, :], float("-inf"))
        attended = scores.softmax(-1) @ v
        return self.out_proj(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two layers with the tanh approximation of GELU between them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, hidden) -> (B, L, hidden)."""
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, L, hidden) -> (B, L, hidden)."""
        x = x + self.self_attn(self.layer_norm1(x), valid)
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))


class VisionEncoder(nn.Module):
    """The tower; features of padded positions are meaningless."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, patches: Tensor, position_ids: Tensor, valid: Tensor) -> Tensor:
        """(B, L, 3·p·p), (B, L) int, (B, L) bool -> (B, L, hidden)."""
        x = self.embeddings(patches, position_ids)
        for layer in self.encoder.layers:
            x = layer(x, valid)
        return self.post_layernorm(x)  # type: ignore[no-any-return]
