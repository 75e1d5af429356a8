"""Graph + stream of weights -> one `.onnx` file and its data.

The graph is built first, without weights; these are written to their places in the data files one
by one as they arrive. Same input, same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from export.backends.base import Specs, WeightStream
from export.backends.onnx.data import DataWriter
from export.backends.onnx.layout import axis_names
from export.backends.onnx.model import ModelBuilder, value_info
from export.backends.onnx.ops import OnnxOps, Tensor
from export.backends.onnx.profile import Profile
from export.graphs.graph import Graph
from mobile_runtime.bundle import TensorSpec, full_precision_path


def write_graph(
    graph: Graph, specs: Specs, weights: WeightStream, path: Path, profile: Profile
) -> None:
    """Write `path` (a new file) and its data files beside it.

    If the graph rounds activations or its cache, also write its full-precision twin over the same
    data.
    """
    builder = emit(graph, specs, profile)
    layout = builder.layout()
    with DataWriter(path, layout) as writer:
        for parameter, weight in weights:
            builder.take(parameter.name, weight, writer)
        for name, values in builder.computed.items():
            writer.write(name, 0, values)
    assert not builder.pieces, f"no weights came for {sorted(builder.pieces)}"
    external = builder.external(layout, path.name)
    _save(model_proto(graph, builder, external), path)
    twin = emit(graph, specs, profile.full_precision)
    if builder.rounds or builder.declared != twin.declared:
        external = twin.external(layout, path.name)
        _save(model_proto(_full_precision_graph(graph), twin, external), full_precision_path(path))


def _full_precision_graph(graph: Graph) -> Graph:
    """The same graph with a cache of float32."""
    (function,) = graph.functions

    def widened(spec: TensorSpec) -> TensorSpec:
        return replace(spec, dtype="float32") if spec.dtype == "int8" else spec

    inputs, outputs = (tuple(map(widened, specs)) for specs in (function.inputs, function.outputs))
    return replace(graph, functions=(replace(function, inputs=inputs, outputs=outputs),))


def emit(graph: Graph, specs: Specs, profile: Profile) -> ModelBuilder:
    """Build the graph's one function, without weights."""
    builder = ModelBuilder(profile.opset)
    (function,) = graph.functions
    sizes = {spec.name: spec.shape[-1] for spec in function.inputs}
    inputs = {name: Tensor(name, size) for name, size in sizes.items()}
    for name, value in function.body(OnnxOps(builder, specs, profile), inputs).items():
        if value.name != name:
            builder.node("Identity", [value.name], outputs=[name])
    return builder


def model_proto(
    graph: Graph, builder: ModelBuilder, external: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    """The finished proto of a graph that `emit` has built."""
    (function,) = graph.functions
    inputs = [value_info(spec, axis_names(spec)) for spec in function.inputs]
    outputs = [value_info(spec, axis_names(spec)) for spec in function.outputs]
    return builder.model(graph.name, inputs, outputs, external)


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
