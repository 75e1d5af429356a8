"""The Core ML backend: graphs -> `.mlpackage` for iOS 18 / macOS 15 and later."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from export.backends.base import Layout, Specs, WeightStream
from export.backends.coreml.layout import check_decoding, coreml_layout
from export.config import ExportConfig
from export.graphs.graph import Graph
from export.models.config import ModelConfig
from export.quant.recipe import Method
from export.quant.recipes import LOOKUP_TABLES
from mobile_runtime.bundle import Decoding, Manifest, Preprocessing
from mobile_runtime.errors import InputError

if TYPE_CHECKING:
    from export.plan import Plan

WEIGHT_FILE = "Data/com.apple.CoreML/weights/weight.bin"  # in a package


_ADVICE = """
## Compute units

The decoder, head and resampler are shaped for the Neural Engine. Published tests of SigLIP towers
in float16 there disagree with each other: load the vision encoder on the GPU unless your own
measurement on the device says otherwise.
"""


class CoreMLBackend:
    """Implements `export.backends.base.Backend`."""

    name = "coreml"
    suffix = ".mlpackage"
    platforms = "iPads and iPhones (iOS 18 / iPadOS 18, macOS 15 or later)"
    advice = _ADVICE
    forms = LOOKUP_TABLES
    methods: frozenset[Method] = frozenset({"kmeans", "affine"})
    # Above about 1 GB a package silently leaves the Neural Engine of an iPhone.
    max_package_bytes = 950_000_000
    may_link = True
    has_tables = True
    kv_caches: tuple[str, ...] = ("state", "io")

    def decoding(self, config: ExportConfig, model: ModelConfig) -> Decoding:
        """Static shapes."""
        return check_decoding(config, model)

    def layout(
        self, model: ModelConfig, preprocessing: Preprocessing, decoding: Decoding
    ) -> Layout:
        """Packages cut to size."""
        return coreml_layout(model, preprocessing, decoding)

    def weight_bytes(self, path: Path) -> int:
        """Size of the package's weight file."""
        return (path / WEIGHT_FILE).stat().st_size

    def convert(self, graph: Graph, specs: Specs, weights: WeightStream, path: Path) -> None:
        """Write `path`."""
        _import_coremltools()
        from export.backends.coreml.package import write_package

        write_package(graph, specs, weights, path)

    def complete(self, plan: Plan, manifest: Manifest, folder: Path) -> None:
        """The packages are all there is."""

    def tools(self) -> dict[str, str]:
        """The converter's version; `InputError` when it is not installed."""
        try:
            return {"coremltools": version("coremltools")}
        except PackageNotFoundError as error:
            raise InputError(
                "coremltools is not installed; run pip install 'minicpmv-mobile[coreml]'."
            ) from error


# What coremltools imports where it finds it, for converters that are not used here: torch takes
# three times the memory and time of starting.
_NOT_NEEDED = ("torch", "transformers")


def _import_coremltools() -> None:
    """Without the libraries that it can do without, unless they are loaded already."""
    # coremltools warns at import that Core ML's runtime is absent: it is not needed here.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    hidden = [name for name in _NOT_NEEDED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails
    try:
        import coremltools  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
