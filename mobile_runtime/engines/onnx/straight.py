"""Refuses ONNX graphs with loops, conditions or functions: what runs must end.

The graphs of a bundle are a straight line of operators. A few bytes of another could loop for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.schema import message_class

# Field numbers of onnx.proto; everything else, weights too, is skipped.
_MESSAGES = """
Model: graph Graph 7, functions *Function 25
Function: name string 1
Graph: node *Node 1
Node: op_type string 4, attribute *Attribute 5
Attribute: g Graph 6, graphs *Graph 11
"""
_Model = message_class("Model", _MESSAGES, "minicpmv_mobile_onnx")


def check_straight(path: Path) -> None:
    """Raises `InputError` if the graph in `path` holds another. One that is missing or damaged is
    left to onnxruntime, which refuses it."""
    model = _Model()
    with suppress(OSError, DecodeError):
        model.ParseFromString(path.read_bytes())
    if found := next(_nested(model), None):
        raise InputError(
            f"{path} holds a graph within its graph ({found}), which could run without an end; do "
            "not use it."
        )


def _nested(model: Any) -> Iterator[str]:
    yield from (f"the function {function.name!r}"[:80] for function in model.functions)
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            yield f"of {node.op_type!r}"[:80]
