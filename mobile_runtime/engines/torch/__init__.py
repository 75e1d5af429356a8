"""The interpreter of ML Programs on PyTorch's tensors: the same plan, on a processor or a GPU."""

from .engine import TorchEngine

__all__ = ["TorchEngine"]
