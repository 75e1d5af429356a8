"""The two ways to write an ONNX graph, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Profile:
    """`contrib`: onnxruntime's own operations may be used. `accuracy_level` is that of its products
    with packed weights: 4 rounds activations to 8 bits by blocks, 1 keeps them in float32."""

    name: str
    opset: int
    contrib: bool
    accuracy_level: int = 4
    is_exact: bool = False

    @property
    def exact(self) -> Profile:
        """The same with activations and cache in float32: what is compared with PyTorch."""
        return replace(self, accuracy_level=1, is_exact=True)


FAST = Profile("fast", 21, contrib=True)
PORTABLE = Profile("portable", 24, contrib=False)
