"""Reads and replaces the scales of the 8-bit key/value cache in a finished graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from mobile_runtime.bundle import is_cache_scale
from mobile_runtime.files import written_whole


def read_cache_scales(graph: Path) -> dict[str, np.ndarray]:
    """Return the scales (kv_heads · head_dim,) by name; none for a cache of floats."""
    model = onnx.load(graph, load_external_data=False)
    tensors = (t for t in model.graph.initializer if is_cache_scale(t.name))
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def write_cache_scales(graph: Path, scales: Mapping[str, np.ndarray]) -> None:
    """Replace `scales`, by name, in the file of the graph; its data files stay as they are."""
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            values = scales[tensor.name].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with written_whole(graph) as partial:
        partial.write_bytes(model.SerializeToString(deterministic=True))
