"""The ONNX backend: graphs -> `.onnx` files with external data, for onnxruntime.

`fast` uses onnxruntime's own operations, `portable` standard ones alone.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export.backends.base import Layout, Specs, WeightStream
from export.backends.onnx.profile import FAST, Profile
from export.config import ExportConfig
from export.graphs.graph import Graph
from export.models.config import ModelConfig
from export.quant.recipe import Method
from export.quant.recipes import BLOCKS
from mobile_runtime.bundle import Decoding, InputError, Preprocessing


class OnnxBackend:
    """Implements `export.backends.base.Backend`."""

    suffix = ".onnx"
    forms = BLOCKS
    methods: frozenset[Method] = frozenset({"block", "affine", "dense"})
    max_package_bytes = 1 << 62  # data files are cut, graphs are not
    has_tables = False

    def __init__(self, profile: Profile) -> None:
        self.name = "onnx" if profile is FAST else f"onnx-{profile.name}"
        self._profile = profile
        self.kv_caches: tuple[str, ...] = ("float32", "int8") if profile.contrib else ("float32",)

    def decoding(self, config: ExportConfig, model: ModelConfig) -> Decoding:
        """A cache of the context's length, prompts in pieces."""
        from export.backends.onnx.layout import onnx_decoding

        return onnx_decoding(config, model, self.kv_caches)

    def layout(
        self, model: ModelConfig, preprocessing: Preprocessing, decoding: Decoding
    ) -> Layout:
        """Four graphs."""
        from export.backends.onnx.layout import onnx_layout

        return onnx_layout(model, preprocessing, decoding)

    def weight_bytes(self, path: Path) -> int:
        """Size of the graph's data files."""
        return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}_data*"))

    def convert(self, graph: Graph, specs: Specs, weights: WeightStream, path: Path) -> None:
        """Write `path` and its data files."""
        from export.backends.onnx.write import write_graph

        write_graph(graph, specs, weights, path, self._profile)

    def tools(self) -> dict[str, str]:
        """The version of the library that writes protos; `InputError` when it is not installed."""
        try:
            return {"onnx": version("onnx")}
        except PackageNotFoundError as error:
            raise InputError(
                "onnx is not installed; run pip install 'minicpmv-mobile[onnx]'."
            ) from error
