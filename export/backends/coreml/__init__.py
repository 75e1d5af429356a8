"""The Core ML backend: graphs -> `.mlpackage` for iOS 18 / macOS 15 and later."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from export.backends.base import Specs, WeightStream, library_version
from export.config import ExportConfig
from export.graphs.bodies import Bodies
from export.graphs.graph import Graph, Section
from export.graphs.static.layout import static_decoding, static_layout
from export.host.card_sections import COREML_SECTION
from export.models.config import ModelConfig
from export.quant.recipes import LOOKUP_TABLES
from mobile_runtime.bundle import Decoding, Manifest, Preprocessing

_LIBRARY = "coremltools"
WEIGHT_FILE = "Data/com.apple.CoreML/weights/weight.bin"  # in a package


class CoreMLBackend:
    """Implements `export.backends.base.Backend`."""

    name = "coreml"
    suffix = ".mlpackage"
    platforms = "iPads and iPhones (iOS 18 / iPadOS 18, macOS 15 or later)"
    card_section = COREML_SECTION
    precisions = LOOKUP_TABLES
    forms = frozenset({"lut", "rows", "floats"})
    # A package above about 1 GB silently does not run on the Neural Engine of an iPhone.
    max_package_bytes = 950_000_000
    allows_hard_links = True
    fuses_inputs = False
    host_tables = True
    kv_caches: Mapping[str, str] = {
        "state": "Core ML keeps the cache",
        "io": "the host passes it in and stores the new rows",
    }
    default_kv_cache = "state"

    def decoding(self, config: ExportConfig, model: ModelConfig) -> Decoding:
        """Return static shapes."""
        return static_decoding(config, model)

    def layout(
        self, bodies: Bodies, model: ModelConfig, preprocessing: Preprocessing, decoding: Decoding
    ) -> Sequence[Section]:
        """Return packages cut to size."""
        return static_layout(bodies, model, preprocessing, decoding)

    def weight_bytes(self, path: Path) -> int:
        """Size of the package's weight file."""
        return (path / WEIGHT_FILE).stat().st_size

    def convert(self, graph: Graph, specs: Specs, weights: WeightStream, path: Path) -> None:
        """Write `path`."""
        _import_coremltools()
        from export.backends.coreml.package import write_package

        write_package(graph, specs, weights, path)

    def write_extras(
        self,
        graphs: Sequence[Graph],
        specs: Specs,
        manifest: Manifest,
        folder: Path,
        text_type: str,
    ) -> None:
        """Add nothing: the packages are complete."""

    def check_installed(self) -> None:
        """Raises `InputError` if coremltools is not installed."""
        library_version(_LIBRARY, "coreml")

    def versions(self) -> dict[str, str]:
        """The converter's version."""
        return {_LIBRARY: library_version(_LIBRARY, "coreml")}


# Optional imports of coremltools that are not needed here: torch by itself triples the time and
# memory of starting.
_NOT_NEEDED = ("torch", "transformers")


def _import_coremltools() -> None:
    """Import it without its optional libraries, unless these are loaded already."""
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
