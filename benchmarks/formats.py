"""Four bits a weight as other programs store them, by their own quantizers or documentation.

A format turns a matrix (rows, columns) into the values that the program computes with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from export.checkpoint.source import TensorReader

Array = np.ndarray


@dataclass(frozen=True)
class Format:
    """`bits` of a weight, scales included; `restored` gives the values that are left of some."""

    bits: float
    restored: Callable[[Array], Array]


def _q4_0(matrix: Array) -> Array:
    """llama.cpp's own quantizer in Python: blocks of 32, one float16 scale, 16 equal steps."""
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType.Q4_0
    values: Array = quants.dequantize(quants.quantize(matrix, kind), kind)
    return values


def _mlx(matrix: Array) -> Array:
    """mlx.core.quantize: groups of 64 of a row, q · scale + bias from the least to the greatest."""
    groups = matrix.reshape(len(matrix), -1, 64)
    bias = groups.min(axis=-1, keepdims=True).astype(np.float16).astype(np.float32)
    span = groups.max(axis=-1, keepdims=True) - bias
    scale = np.maximum(span / 15, 1e-7).astype(np.float16).astype(np.float32)
    q = np.clip(np.rint((groups - bias) / scale), 0, 15)
    restored: Array = (q * scale + bias).reshape(matrix.shape)
    return restored


def _hqq(matrix: Array) -> Array:
    """onnxruntime's own half-quadratic quantizer: groups of 64 of a row, (q - zero) · scale with
    both numbers in float16."""
    import torch
    from onnxruntime.quantization import matmul_nbits_quantizer as peer

    quantizer = peer.HQQWeightOnlyQuantizer(peer.HQQWeightOnlyQuantConfig())
    q, scale, zero = quantizer.quantize_internal(torch.from_numpy(matrix), bits=4, group_size=64)
    groups = q.reshape(len(matrix), -1, 64).float()
    scale, zero = (part.half().float()[..., None] for part in (scale, zero))
    return np.asarray(((groups - zero) * scale).reshape(matrix.shape).numpy())


FORMATS: Mapping[str, Format] = {
    "llama.cpp Q4_0": Format(4.5, _q4_0),
    "MLX 4-bit, groups of 64": Format(4.5, _mlx),
    "onnxruntime HQQ, groups of 64": Format(4.5, _hqq),
}


def is_matrix(name: str, values: Array) -> bool:
    """Whether a tensor is one of the decoder's matrices, which formats store in four bits."""
    return name.startswith("llm.model.layers.") and values.ndim == 2


@dataclass(frozen=True)
class FormattedSource:
    """The tensors of another source, the decoder's matrices as a format leaves them."""

    origin: TensorReader
    format: Format

    def read(self, name: str) -> Array:
        """The whole tensor."""
        values = self.origin.read(name)
        if not is_matrix(name, values):
            return values
        return self.format.restored(values.astype(np.float32))

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Rows `begin` to `end` (clipped to the tensor)."""
        return self.read(name)[begin:end]
