"""onnxruntime: one graph, its key/value buffers shared by input and output and never copied."""

from mobile_runtime.engines.onnx.engine import OnnxEngine, OnnxState
from mobile_runtime.engines.onnx.sessions import SessionSettings

__all__ = ["OnnxEngine", "OnnxState", "SessionSettings"]
