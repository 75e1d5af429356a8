"""The ways to write an ONNX graph, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Profile:
    """`operations`: onnxruntime's own (contributed) ones, or those of the standard only.
    `activations`: rounded to 8 bits if that is faster, or kept in float32."""

    name: str
    opset: int
    operations: Literal["contributed", "standard"]
    activations: Literal["rounded", "float32"] = "rounded"

    @property
    def contrib(self) -> bool:
        """Whether onnxruntime's own operations may be used."""
        return self.operations == "contributed"

    @property
    def rounds(self) -> bool:
        """Whether activations and cache may be rounded to 8 bits."""
        return self.activations == "rounded"

    @property
    def accuracy_level(self) -> int:
        """Attribute of `MatMulNBits`: 4 rounds activations to 8 bits per block, 1 keeps them in
        float32."""
        return 4 if self.rounds else 1

    @property
    def full_precision(self) -> Profile:
        """The same with activations and cache in float32, for comparison with PyTorch."""
        return replace(self, activations="float32")


FAST = Profile("fast", 21, "contributed")
PORTABLE = Profile("portable", 24, "standard")
