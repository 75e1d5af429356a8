"""The ONNX backend: graphs -> `.onnx` files with external data, for onnxruntime.

`fast` uses onnxruntime's own operations, `portable` only standard ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from export.backends.base import Specs, WeightStream, library_version
from export.backends.onnx.profile import FAST, Profile
from export.config import ExportConfig
from export.graphs.bodies import Bodies
from export.graphs.graph import Graph, Section
from export.host.card_sections import ONNX_SECTION
from export.models.config import ModelConfig
from export.quant.recipes import BLOCKS
from mobile_runtime.bundle import Decoding, Manifest, Preprocessing

_LIBRARY = "onnx"
_KV_CACHES = {
    "float32": "floats in one buffer",
    "int8": "8-bit integers in one buffer, a quarter of the memory",
}


class OnnxBackend:
    """Implements `export.backends.base.Backend`."""

    suffix = ".onnx"
    platforms = "onnxruntime 1.32 or later on phones and desktops"
    card_section = ONNX_SECTION
    precisions = BLOCKS
    forms = frozenset({"blocks", "rows", "floats"})
    max_package_bytes = 1 << 62  # data files are split, graphs are not
    allows_hard_links = False  # onnx refuses data files with several hard links
    fuses_inputs = True
    host_tables = False

    def __init__(self, profile: Profile) -> None:
        self.name = "onnx" if profile is FAST else f"onnx-{profile.name}"
        self._profile = profile
        names = list(_KV_CACHES) if profile.contrib else ["float32"]
        self.kv_caches: Mapping[str, str] = {name: _KV_CACHES[name] for name in names}
        self.default_kv_cache = (
            "float32 for --quant none, else int8" if profile.contrib else "float32"
        )

    def decoding(self, config: ExportConfig, model: ModelConfig) -> Decoding:
        """Return a cache of the context's length, and prompts in pieces of the prefill's."""
        from export.backends.onnx.layout import onnx_decoding

        return onnx_decoding(config, model, tuple(self.kv_caches))

    def layout(
        self, bodies: Bodies, model: ModelConfig, preprocessing: Preprocessing, decoding: Decoding
    ) -> Sequence[Section]:
        """Return four graphs."""
        from export.backends.onnx.layout import onnx_layout

        return onnx_layout(bodies, model, decoding)

    def weight_bytes(self, path: Path) -> int:
        """Size of the graph's data files."""
        return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}_data*"))

    def convert(self, graph: Graph, specs: Specs, weights: WeightStream, path: Path) -> None:
        """Write `path` and its data files."""
        from export.backends.onnx.write import write_graph

        write_graph(graph, specs, weights, path, self._profile)

    def write_extras(
        self,
        graphs: Sequence[Graph],
        specs: Specs,
        manifest: Manifest,
        folder: Path,
        text_type: str,
    ) -> None:
        """Add the text model on the same data, for programs without pictures."""
        from export.backends.onnx.text import genai_config, text_config, write_text_model

        (embed,) = (graph for graph in graphs if graph.role == "embed_tokens")
        (decoder,) = (graph for graph in graphs if graph.role == "decoder")
        write_text_model((embed, decoder), specs, folder, self._profile)
        configs = {"genai_config.json": genai_config(manifest, text_type)}
        # With standard operations, the cache cannot grow as optimum's does.
        if self._profile.contrib:
            configs["config.json"] = text_config(manifest, decoder, text_type)
        for name, values in configs.items():
            text = json.dumps(values, indent=1)
            (folder / name).write_text(text + "\n", encoding="utf-8")
        for name in ("tokenizer.json", "tokenizer_config.json"):  # expected beside the model
            if (folder / "tokenizer" / name).is_file():  # a checkpoint may have no settings
                shutil.copyfile(folder / "tokenizer" / name, folder / name)

    def check_installed(self) -> None:
        """Raises `InputError` if the library that writes protos is not installed."""
        library_version(_LIBRARY, "onnx")

    def versions(self) -> dict[str, str]:
        """The version of the library that writes protos."""
        return {_LIBRARY: library_version(_LIBRARY, "onnx")}
