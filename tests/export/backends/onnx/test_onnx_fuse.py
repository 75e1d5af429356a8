"""Rewrites of ONNX nodes: what they leave, and that results stay."""

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from export.backends.onnx.fuse import fuse

AXES = {"heads": 4, "joined": 3}
CONSTANTS = {
    "heads": np.array([0, 0, 2, 4]),
    "joined": np.array([0, 0, 8]),
    "gain": np.linspace(0.5, 2, 8, dtype=np.float32),
}


def run(nodes):
    value = helper.make_tensor_value_info
    inputs = [value(name, TensorProto.FLOAT, [1, 3, 8]) for name in ("x", "y")]
    outputs = [value(name, TensorProto.FLOAT, [1, 3, 8]) for name in ("sum", "out")]
    held = [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "test", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal((1, 3, 8)).astype(np.float32) for name in ("x", "y")}
    return ort.InferenceSession(model.SerializeToString()).run(None, given)


def test_sums_join_their_norms_and_round_trips_vanish():
    norm = ["sum", "gain"]
    nodes = [
        helper.make_node("Reshape", ["y", "heads"], ["cut"]),
        helper.make_node("Reshape", ["cut", "joined"], ["back"]),
        helper.make_node("Add", ["x", "back"], ["sum"]),
        helper.make_node("SimplifiedLayerNormalization", norm, ["out"], axis=-1, epsilon=1e-6),
    ]
    fused = fuse(nodes, ["sum", "out"], AXES)
    assert [node.op_type for node in fused] == ["SkipSimplifiedLayerNormalization"]
    for got, expected in zip(run(fused), run(nodes), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_what_is_computed_on_heads_stays():
    nodes = [
        helper.make_node("Reshape", ["y", "heads"], ["cut"]),
        helper.make_node("Neg", ["cut"], ["turned"]),
        helper.make_node("Reshape", ["turned", "joined"], ["back"]),
        helper.make_node("Add", ["x", "back"], ["sum"]),
        helper.make_node("Neg", ["sum"], ["out"]),
    ]
    assert fuse(nodes, ["sum", "out"], AXES) == nodes
