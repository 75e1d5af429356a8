"""Graph + stream of weights -> one `.onnx` file and its data.

The graph is built first, without weights; these go to their places in the data files one by one as
they arrive. Same input, same bytes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.backends.base import Specs, WeightStream
from export.backends.onnx.data import DataLayout, DataWriter
from export.backends.onnx.layout import axis_names
from export.backends.onnx.model import ModelBuilder
from export.backends.onnx.ops import OnnxOps, Tensor
from export.backends.onnx.profile import Profile
from export.graphs.graph import Graph
from mobile_runtime.bundle import TensorSpec, exact_path


def write_graph(
    graph: Graph, specs: Specs, weights: WeightStream, path: Path, profile: Profile
) -> None:
    """Write `path` (a new file) and its data files beside it; beside a graph whose activations are
    rounded, one with the same data where they are not."""
    builder = emit(graph, specs, profile)
    layout = builder.layout()
    with DataWriter(path, layout) as writer:
        for parameter, weight in weights:
            builder.take(parameter.name, weight, writer)
    assert not builder.pieces, f"no weights came for {sorted(builder.pieces)}"
    _write_model(graph, builder, layout, path, path.name)
    exact = emit(graph, specs, profile.exact)
    if builder.rounds or builder.declared != exact.declared:
        _write_model(_exact_graph(graph), exact, layout, exact_path(path), path.name)


def _exact_graph(graph: Graph) -> Graph:
    """The same with a cache of float32."""
    (function,) = graph.functions

    def widened(spec: TensorSpec) -> TensorSpec:
        return replace(spec, dtype="float32") if spec.dtype == "int8" else spec

    inputs, outputs = (tuple(map(widened, specs)) for specs in (function.inputs, function.outputs))
    return replace(graph, functions=(replace(function, inputs=inputs, outputs=outputs),))


def emit(graph: Graph, specs: Specs, profile: Profile) -> ModelBuilder:
    """The graph's one function, without weights."""
    builder = ModelBuilder(profile.opset)
    (function,) = graph.functions
    sizes = {spec.name: spec.shape[-1] for spec in function.inputs}
    inputs = {name: Tensor(name, size) for name, size in sizes.items()}
    for name, value in function.body(OnnxOps(builder, specs, profile), inputs).items():
        if value.name != name:
            builder.node("Identity", [value.name], outputs=[name])
    return builder


def _write_model(
    graph: Graph, builder: ModelBuilder, layout: DataLayout, path: Path, data: str
) -> None:
    (function,) = graph.functions
    axes = {spec.name: axis_names(spec) for spec in (*function.inputs, *function.outputs)}
    model = builder.model(graph.name, function.inputs, function.outputs, axes, layout, data)
    path.write_bytes(model.SerializeToString(deterministic=True))
