"""What every backend offers the pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from export.config import ExportConfig
from export.graphs.bodies import Bodies
from export.graphs.graph import Graph, Parameter, Section
from export.models.config import ModelConfig
from export.quant.recipe import QuantSpec
from export.quant.recipes import Precisions
from export.quant.weights import Weight
from mobile_runtime.bundle import Decoding, Manifest, Preprocessing

Specs = Mapping[str, QuantSpec]  # of every parameter, by name
WeightStream = Iterable[tuple[Parameter, Weight]]


class Backend(Protocol):
    """Turns a graph and the stream of its weights into one package."""

    name: str
    suffix: str
    platforms: str  # what the bundle's card says it is for
    card_section: str  # what the card says besides
    precisions: Precisions
    forms: frozenset[str]  # storage forms that it can write
    max_package_bytes: int
    allows_hard_links: bool  # whether bundle files may be hard links into the cache
    host_tables: bool  # whether the host looks embeddings and positions up in files of the bundle
    kv_caches: Mapping[str, str]  # what --kv-cache takes, and what it means
    default_kv_cache: str  # which of them is taken otherwise, in words

    def decoding(self, config: ExportConfig, model: ModelConfig) -> Decoding:
        """The decoder's shapes, or `InputError` when target or model does not allow them."""

    def layout(
        self, bodies: Bodies, model: ModelConfig, preprocessing: Preprocessing, decoding: Decoding
    ) -> Sequence[Section]:
        """The packages in the order in which they run; `InputError` when one cannot be."""

    def weight_bytes(self, path: Path) -> int:
        """Bytes of the weights of the package at `path`."""

    def convert(self, graph: Graph, specs: Specs, weights: WeightStream, path: Path) -> None:
        """Write the package.

        `weights` yields `graph.parameters` in their order, each in the form that `specs` says.
        """

    def write_extras(
        self,
        graphs: Sequence[Graph],
        specs: Specs,
        manifest: Manifest,
        folder: Path,
        text_type: str,
    ) -> None:
        """Add what belongs to all packages of the bundle in `folder` together. `text_type` is what
        other programs call the language model."""

    def check_installed(self) -> None:
        """`InputError` if a library that the backend needs is not installed."""

    def versions(self) -> dict[str, str]:
        """Names and versions of the libraries that shape the output."""
