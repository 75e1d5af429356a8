"""What every backend offers the pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from export.graphs.graph import Graph, Parameter
from export.quant.recipe import Method, QuantSpec
from export.weights import Weight

Specs = Mapping[str, QuantSpec | None]
WeightStream = Iterable[tuple[Parameter, Weight]]


class Backend(Protocol):
    """Turns a graph and the stream of its weights into one package."""

    name: str
    suffix: str
    methods: frozenset[Method]  # the quantization methods whose storage form it can write
    max_package_bytes: int

    def weight_bytes(self, path: Path) -> int:
        """Bytes of the weights of the package at `path`."""

    def convert(self, graph: Graph, specs: Specs, weights: WeightStream, path: Path) -> None:
        """Write the package.

        `weights` yields `graph.parameters` in their order, each in the form that `specs` says.
        """

    def tools(self) -> dict[str, str]:
        """Names and versions of the tools that shape the output."""
