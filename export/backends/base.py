"""The interface that every backend offers the pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
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
from mobile_runtime.errors import InputError

Specs = Mapping[str, QuantSpec]  # of every parameter, by name
WeightStream = Iterable[tuple[Parameter, Weight]]


class Backend(Protocol):
    """Cuts a model into packages, and writes each from a graph and the stream of its weights."""

    name: str
    suffix: str
    platforms: str  # for the bundle's card
    card_section: str  # of this target
    precisions: Precisions
    forms: frozenset[str]  # storage forms that it can write
    max_package_bytes: int
    allows_hard_links: bool  # whether bundle files may be hard links into the cache
    fuses_inputs: bool  # whether matrices with the same inputs are one, and stored alike
    host_tables: bool  # whether the host looks up embeddings and positions in bundle files
    kv_caches: Mapping[str, str]  # values of --kv-cache, and their meaning
    default_kv_cache: str  # the default among them, in words

    def decoding(self, config: ExportConfig, model: ModelConfig) -> Decoding:
        """Return the decoder's shapes. Raises `InputError` if target or model does not allow
        them."""

    def layout(
        self, bodies: Bodies, model: ModelConfig, preprocessing: Preprocessing, decoding: Decoding
    ) -> Sequence[Section]:
        """Return the packages in the order in which they run.

        Raises `InputError` if one cannot be built.
        """

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
        """Add files that concern all packages of the bundle in `folder` together.

        `text_type` is the name of the language model in other programs.
        """

    def check_installed(self) -> None:
        """Raises `InputError` if a library that the backend needs is not installed."""

    def versions(self) -> dict[str, str]:
        """Names and versions of the libraries that shape the output."""


def library_version(library: str, extra: str) -> str:
    """Version of a library that a backend needs. Raises `InputError`, which names the `extra` to
    install, if it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError as error:
        raise InputError(
            f"{library} is not installed; run pip install -e '.[export,{extra}]'."
        ) from error
