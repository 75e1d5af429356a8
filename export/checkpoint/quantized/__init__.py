"""Checkpoints that other tools have quantized, dequantized tensor by tensor as they are read."""

from __future__ import annotations

from export.checkpoint.quantized.config import is_quantized, read_dequantized_config
from export.checkpoint.quantized.source import QuantizedSource

__all__ = ["QuantizedSource", "is_quantized", "read_dequantized_config"]
