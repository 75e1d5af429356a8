"""The graph bodies' operations in torch: they run the checkpoint's own weights.

An activation is (positions, channels), heads are (heads, positions, head_dim). The positions of
several texts may stand one after the other; only `causal_attention` tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.checkpoint.source import TensorReader
from export.graphs.graph import Linear, Parameter

# Called with the weights that multiply x, before they do, x, and the last sum: the residual stream.
Observe = Callable[[Sequence[Parameter], Tensor, Tensor], None]
# Called with a weight and the loss's gradient at what it gave, when that is known.
ObserveGradient = Callable[[Parameter, Tensor], None]


@dataclass(frozen=True)
class Compute:
    """Where matrices are multiplied, and in which type their products are kept. Norms, softmax and
    sums into the residual stream are float32."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32


class TorchOps:
    """`Ops` that compute at once. `observe` sees the inputs of every matrix, `gradients` what a
    loss's gradient is at its outputs. The weights in `loaded` are taken from there, by name. Until
    there is a sum, `stream` is the residual stream."""

    def __init__(
        self,
        source: TensorReader,
        compute: Compute,
        observe: Observe | None = None,
        gradients: ObserveGradient | None = None,
        loaded: Mapping[str, Tensor] | None = None,
        stream: Tensor | None = None,
    ) -> None:
        self._source, self._compute, self._stream = source, compute, stream
        self._observe, self._gradients = observe, gradients
        self._loaded: dict[str, Tensor] = dict(loaded or {})

    def linear(self, x: Tensor, weight: Parameter, bias: Parameter | None = None) -> Tensor:
        """x · weightᵀ + bias."""
        return self.linears(x, [(weight, bias)])[0]

    def linears(self, x: Tensor, layers: Sequence[Linear]) -> list[Tensor]:
        """Several layers on the same x."""
        if self._observe is not None:
            assert self._stream is not None, "a block begins with the stream"
            self._observe([weight for weight, _ in layers], x, self._stream)
        dtype = self._compute.dtype
        x = x.to(dtype)
        given = [
            functional.linear(
                x, self._load(weight, dtype), None if bias is None else self._load(bias, dtype)
            )
            for weight, bias in layers
        ]
        if self._gradients is not None:
            for (weight, _), y in zip(layers, given, strict=True):
                y.register_hook(partial(self._gradients, weight))  # type: ignore[no-untyped-call]
        return given

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y."""
        self._stream = x + y
        return self._stream

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """x · y."""
        return x * y

    def silu(self, x: Tensor) -> Tensor:
        """x · sigmoid(x)."""
        return functional.silu(x)

    def gelu_tanh(self, x: Tensor) -> Tensor:
        """GELU, tanh approximation."""
        return functional.gelu(x, approximate="tanh")

    def layer_norm(self, x: Tensor, weight: Parameter, bias: Parameter, eps: float) -> Tensor:
        """Normalise over the channels."""
        return functional.layer_norm(
            x.float(), x.shape[-1:], self._load(weight), self._load(bias), eps
        )

    def rms_norm(self, x: Tensor, weight: Parameter, eps: float) -> Tensor:
        """x / sqrt(mean(x²) + eps) · weight over the last axis."""
        return functional.rms_norm(x.float(), x.shape[-1:], self._load(weight), eps)

    def heads(self, x: Tensor, num_heads: int) -> Tensor:
        """(positions, channels) -> (heads, positions, head_dim)."""
        return x.reshape(len(x), num_heads, -1).transpose(0, 1)

    def head_rms_norm(self, x: Tensor, weight: Parameter, eps: float) -> Tensor:
        """RMS norm of every head."""
        return self.rms_norm(x, weight, eps)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float) -> Tensor:
        """Attention of all positions over all positions."""
        attended = functional.scaled_dot_product_attention(q[None], k[None], v[None], scale=scale)
        return attended[0].transpose(0, 1).flatten(1)

    def weighted_values(self, scores: Tensor, values: Tensor, num_heads: int) -> Tensor:
        """softmax of scores (positions, heads · queries) over the positions, applied to values:
        (queries, channels)."""
        weights = self.heads(scores.float(), num_heads).softmax(dim=1)
        mixed = weights.transpose(1, 2) @ self.heads(values.float(), num_heads)
        return mixed.transpose(0, 1).flatten(1)

    def _load(self, parameter: Parameter, dtype: torch.dtype = torch.float32) -> Tensor:
        if parameter.name not in self._loaded:
            values = parameter.load(self._source)
            if not isinstance(values, np.ndarray):  # finished: what the device will compute with
                values = values.dequantize()
            self._loaded[parameter.name] = as_tensor(values).to(self._compute.device, dtype)
        return self._loaded[parameter.name]


def as_tensor(values: np.ndarray) -> Tensor:
    """A tensor of the same type and values."""
    plain = np.ascontiguousarray(values)
    if plain.dtype.name == "bfloat16":
        return torch.from_numpy(plain.view(np.uint16).astype(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(plain)


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotary embedding of heads (heads, positions, dim) by angles (positions, dim)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def causal_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Grouped-query attention within each of the texts of `lengths` that follow one another, in
    the type of the values."""
    groups, q, k = len(q) // len(k), q.to(v.dtype), k.to(v.dtype)
    attended = [
        functional.scaled_dot_product_attention(
            one[None], keys.repeat_interleave(groups, 0)[None],
            values.repeat_interleave(groups, 0)[None], is_causal=True,
        )[0]
        for one, keys, values in zip(
            *(torch.split(part, list(lengths), dim=1) for part in (q, k, v)), strict=True
        )
    ]  # fmt: skip
    return torch.cat(attended, dim=1).transpose(0, 1).flatten(1)
