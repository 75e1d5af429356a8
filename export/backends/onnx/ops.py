"""The graph vocabulary as ONNX operations, in two profiles.

Activations are (batch, length, channels), heads (batch, length, heads, head_dim), all float32; the
first two axes may vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from export.backends.base import Specs
from export.backends.onnx import encode
from export.backends.onnx.matrices import MatrixWriter
from export.backends.onnx.model import InitializerPart, ModelBuilder
from export.backends.onnx.profile import Profile
from export.graphs.graph import Linear, Ops, Parameter


@dataclass(frozen=True)
class Tensor:
    """A value of the graph: the size of its last axis, and its number of heads if it has any."""

    name: str
    channels: int
    heads: int = 1


class OnnxOps:
    """Emits into `builder`. Implements `export.graphs.graph.Ops`."""

    def __init__(self, builder: ModelBuilder, specs: Specs, profile: Profile) -> None:
        self.builder, self.contrib = builder, profile.contrib
        self.rounds = profile.rounds
        self._matrices = MatrixWriter(builder, specs, profile)

    def emit(self, operation: str, *inputs: str, contrib: bool = False, **attributes: Any) -> str:
        """Append an operation with one output; return its name."""
        return self.builder.node(operation, inputs, contrib=contrib, **attributes)[0]

    def linear(self, x: Tensor, weight: Parameter, bias: Parameter | None = None) -> Tensor:
        return self.linears(x, [(weight, bias)])[0]

    def linears(self, x: Tensor, layers: Sequence[Linear]) -> Sequence[Tensor]:
        products = self._matrices.product(x.name, [weight for weight, _ in layers])
        outputs = []
        for (weight, bias), out in zip(layers, products, strict=True):
            if bias is not None:
                out = self.emit("Add", out, self.vector(bias))
            outputs.append(Tensor(out, weight.shape[0]))
        return outputs

    def numbers(self, values: Sequence[int]) -> Tensor:
        """A constant vector of integers."""
        return Tensor(self.builder.constant(values, np.int64), len(values))

    def stacked(self, x: Tensor, weights: Sequence[Parameter]) -> Tensor:
        """Apply one layer whose rows are stacked from several weights."""
        rows = sum(weight.shape[0] for weight in weights)
        return Tensor(self._matrices.stacked(x.name, weights), rows)

    def vector(self, parameter: Parameter, *, inline: bool = False) -> str:
        """A bias or gain, float32."""
        name = parameter.name
        if name not in self.builder.declared:
            self.builder.declare(name, TensorProto.FLOAT, parameter.shape, inline=inline)
            self.builder.fill(name, InitializerPart(name, 0, encode.values))
        return name

    def rows_of(self, tables: Sequence[Parameter], ids: Tensor) -> Tensor:
        """Rows of stacked tables: (batch, length) ids -> (batch, length, channels)."""
        return Tensor(self._matrices.rows(tables, ids.name), tables[0].shape[1])

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return Tensor(self.emit("Add", x.name, y.name), x.channels, x.heads)

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        return Tensor(self.emit("Mul", x.name, y.name), x.channels, x.heads)

    def silu(self, x: Tensor) -> Tensor:
        if self.contrib:
            return Tensor(self.emit("QuickGelu", x.name, contrib=True, alpha=1.0), x.channels)
        return Tensor(self.emit("Mul", x.name, self.emit("Sigmoid", x.name)), x.channels)

    def gelu_tanh(self, x: Tensor) -> Tensor:
        return Tensor(self.emit("Gelu", x.name, approximate="tanh"), x.channels)

    def layer_norm(self, x: Tensor, weight: Parameter, bias: Parameter, eps: float) -> Tensor:
        scale, shift = self.vector(weight), self.vector(bias)
        out = self.emit("LayerNormalization", x.name, scale, shift, axis=-1, epsilon=eps)
        return Tensor(out, x.channels)

    def rms_norm(self, x: Tensor, weight: Parameter, eps: float) -> Tensor:
        # onnxruntime defines the first in the standard domain, where onnx does not know it.
        operation = "SimplifiedLayerNormalization" if self.contrib else "RMSNormalization"
        out = self.emit(operation, x.name, self.vector(weight), axis=-1, epsilon=eps)
        return Tensor(out, x.channels, x.heads)

    def head_rms_norm(self, x: Tensor, weight: Parameter, eps: float) -> Tensor:
        return self.rms_norm(x, weight, eps)

    def heads(self, x: Tensor, num_heads: int) -> Tensor:
        shape = self.builder.constant([0, 0, num_heads, x.channels // num_heads], np.int64)
        return Tensor(self.emit("Reshape", x.name, shape), x.channels // num_heads, num_heads)

    def joined(self, x: Tensor) -> Tensor:
        """Heads -> activation."""
        channels = x.heads * x.channels
        shape = self.builder.constant([0, 0, channels], np.int64)
        return Tensor(self.emit("Reshape", x.name, shape), channels)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float) -> Tensor:
        """All positions of a view attend to each other; none is padding."""
        if self.contrib:
            names = [self.joined(x).name for x in (q, k, v)]
            out = self.emit(
                "MultiHeadAttention", *names, contrib=True, num_heads=q.heads, scale=scale
            )
            return Tensor(out, q.heads * q.channels)
        factor = self.builder.constant(scale, np.float32)
        queries = self.emit("Mul", self._transposed(q, 0, 2, 1, 3), factor)
        scores = self.emit("MatMul", queries, self._transposed(k, 0, 2, 3, 1))
        out = self.emit("MatMul", self._softmax(scores), self._transposed(v, 0, 2, 1, 3))
        back = self.emit("Transpose", out, perm=[0, 2, 1, 3])
        return self.joined(Tensor(back, q.channels, q.heads))

    def weighted_values(self, scores: Tensor, values: Tensor, num_heads: int) -> Tensor:
        rows = self._transposed(self.heads(scores, num_heads), 0, 2, 3, 1)  # (1, H, queries, N)
        held = self.heads(values, num_heads)
        out = self.emit("MatMul", self._softmax(rows), self._transposed(held, 0, 2, 1, 3))
        back = self.emit("Transpose", out, perm=[0, 2, 1, 3])  # (1, queries, H, head_dim)
        return self.joined(Tensor(back, held.channels, num_heads))

    def _transposed(self, x: Tensor, *order: int) -> str:
        return self.emit("Transpose", x.name, perm=list(order))

    def _softmax(self, scores: str) -> str:
        return self.emit("Softmax", scores, axis=-1)


_IMPLEMENTS: type[Ops] = OnnxOps  # for mypy to check
