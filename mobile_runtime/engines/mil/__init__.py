"""A Core ML interpreter: runs a saved ML Program with numpy, on any system."""

from .engine import MilEngine, Precision
from .registry import UnsupportedOperation

__all__ = ["MilEngine", "Precision", "UnsupportedOperation"]
