"""ONNX graphs that ask for any amount of memory or time, or that do not fit their inputs."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mobile_runtime.engines.onnx import OnnxEngine, SessionSettings
from mobile_runtime.errors import InputError

X = {"x": np.ones(1, np.float32)}
ONE_THREAD = SessionSettings(threads=1)


def constant(name, values, kind=TensorProto.INT64):
    return helper.make_tensor(name, kind, np.shape(values), np.ravel(values))


def concat_chain():
    names = ["x", *(f"c{n}" for n in range(34)), "y"]
    pairs = itertools.pairwise(names)
    return [helper.make_node("Concat", [a, a], [b], axis=0) for a, b in pairs], []


def expanded(size):
    nodes = [
        helper.make_node("Expand", ["x", "size"], ["e"]),
        helper.make_node("ReduceSum", ["e"], ["y"]),
    ]
    return nodes, [constant("size", [size])]


def constant_of_shape():
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["e"]),
        helper.make_node("Add", ["e", "x"], ["f"]),
        helper.make_node("ReduceSum", ["f"], ["y"]),
    ]
    return nodes, [constant("size", [2**33])]


def outer():
    nodes, sizes = expanded(200_000)
    nodes[1:] = [
        helper.make_node("Reshape", ["e", "column"], ["f"]),
        helper.make_node("Mul", ["e", "f"], ["g"]),
        helper.make_node("ReduceSum", ["g"], ["y"]),
    ]
    return nodes, [*sizes, constant("column", [-1, 1])]


def save(path, nodes, initializers):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


BOMBS = {
    "concat": concat_chain(),
    "expand": expanded(2**32),
    "constant of shape": constant_of_shape(),
    "outer product": outer(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_its_memory_is_taken(name, tmp_path, monkeypatch):
    """onnxruntime refuses what would pass the arena's limit; its own limits are far above."""
    with pytest.raises(InputError, match="onnxruntime cannot") as caught:
        OnnxEngine.load(save(tmp_path / "g.onnx", *BOMBS[name]), ONE_THREAD).run(X)
    assert "Available memory of" in str(caught.value)
    assert "\n" not in str(caught.value) and "onnxruntime_src" not in str(caught.value)


def test_a_graph_of_ordinary_size_runs(tmp_path):
    engine = OnnxEngine.load(save(tmp_path / "g.onnx", *expanded(2**20)), ONE_THREAD)
    assert engine.run(X)["y"] == 2**20


def endless_loop():
    ok = helper.make_tensor_value_info("ok", TensorProto.BOOL, [])
    number = helper.make_tensor_value_info("number", TensorProto.INT64, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["ok"], ["still"])],
        "body",
        [number, ok, helper.make_tensor_value_info("v", TensorProto.FLOAT, [1])],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1]),
        ],
    )
    nodes = [helper.make_node("Loop", ["count", "true", "x"], ["y"], body=body)]
    return nodes, [constant("count", 2**62), constant("true", True, TensorProto.BOOL)]


def test_a_loop_is_refused_unopened(tmp_path):
    with pytest.raises(InputError, match="holds a graph within its graph"):
        OnnxEngine.load(save(tmp_path / "g.onnx", *endless_loop()), ONE_THREAD)


def test_a_function_is_refused_unopened(tmp_path):
    path = save(tmp_path / "g.onnx", *expanded(4))
    model = onnx.load(path)
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(
        helper.make_function("own", "f", ["a"], ["b"], [node], [helper.make_opsetid("", 21)])
    )
    onnx.save(model, path)
    with pytest.raises(InputError, match="the function 'f'"):
        OnnxEngine.load(path, ONE_THREAD)


def test_inputs_that_do_not_fit_are_a_sentence(tmp_path):
    engine = OnnxEngine.load(save(tmp_path / "g.onnx", *expanded(4)), ONE_THREAD)
    with pytest.raises(InputError, match="onnxruntime cannot run the graph that makes y"):
        engine.run({"x": np.ones((2, 2), np.int32)})
