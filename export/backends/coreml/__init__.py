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
from mobile_runtime.bundle import Decoding, InputError, Manifest, Preprocessing

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


def _import_coremltools() -> None:
    """Without torch where that is not loaded yet: coremltools would import it for a converter that
    is not used here, at three times the time and memory of starting."""
    # coremltools warns at import that Core ML's runtime is absent: it is not needed here.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    if "torch" in sys.modules:
        import coremltools

        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # `import torch` fails
    try:
        import coremltools  # noqa: F401
    finally:
        del sys.modules["torch"]
