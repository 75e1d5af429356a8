"""GGUF, the files of llama.cpp, dequantized tensor by tensor as they are read."""

from __future__ import annotations

from export.checkpoint.gguf.source import GgufSource, holds_gguf, read_config_beside

__all__ = ["GgufSource", "holds_gguf", "read_config_beside"]
