"""What every backend offers the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from export.config import ExportConfig
from export.graphs.graph import Graph, Parameter, Role
from export.models.config import ModelConfig
from export.quant.recipe import Method, QuantSpec
from export.quant.recipes import Forms
from export.quant.weights import Weight
from mobile_runtime.bundle import Decoding, Manifest, Preprocessing

if TYPE_CHECKING:
    from export.plan import Plan

Specs = Mapping[str, QuantSpec | None]
WeightStream = Iterable[tuple[Parameter, Weight]]
# A role, the number of blocks in it, and what builds the package of some of them under a name.
Layout = Sequence[tuple[Role, int, Callable[[range, str], Graph]]]


class Backend(Protocol):
    """Turns a graph and the stream of its weights into one package."""

    name: str
    suffix: str
    platforms: str  # what the bundle's card says it is for
    advice: str  # a section of the card
    forms: Forms
    methods: frozenset[Method]  # the quantization methods whose storage form it can write
    max_package_bytes: int
    may_link: bool  # whether readers take files that have other names, too
    has_tables: bool  # whether the host looks embeddings and positions up in files of the bundle

    kv_caches: tuple[str, ...]  # what --kv-cache takes

    def decoding(self, config: ExportConfig, model: ModelConfig) -> Decoding:
        """The decoder's shapes, or `InputError` when target or model does not allow them."""

    def layout(
        self, model: ModelConfig, preprocessing: Preprocessing, decoding: Decoding
    ) -> Layout:
        """The packages in the order in which they run; `InputError` when one cannot be."""

    def weight_bytes(self, path: Path) -> int:
        """Bytes of the weights of the package at `path`."""

    def convert(self, graph: Graph, specs: Specs, weights: WeightStream, path: Path) -> None:
        """Write the package.

        `weights` yields `graph.parameters` in their order, each in the form that `specs` says.
        """

    def complete(self, plan: Plan, manifest: Manifest, folder: Path) -> None:
        """Add what belongs to all packages of the bundle in `folder` together."""

    def tools(self) -> dict[str, str]:
        """Names and versions of the tools that shape the output."""
