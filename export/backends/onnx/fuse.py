"""Nodes of a graph -> fewer nodes that compute the same with onnxruntime's own operations.

When a decoder runs for one token, the fixed cost of starting an operation dominates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from onnx import NodeProto, helper

_NORM = "SimplifiedLayerNormalization"
_HEADS, _JOINED = 4, 3  # axes


def fuse(
    nodes: Sequence[NodeProto], outputs: Iterable[str], axes: Mapping[str, int]
) -> list[NodeProto]:
    """Apply all rewrites. `outputs` are the graph's; `axes` gives the rank of constant shapes."""
    return _drop_unused(_join_sums(_drop_round_trips(nodes, axes)), set(outputs))


def _drop_round_trips(nodes: Sequence[NodeProto], axes: Mapping[str, int]) -> list[NodeProto]:
    """
    Given:  y = Reshape(x, (0, 0, h, d)),  z = Reshape(y, (0, 0, h · d)),  … use(z)
    Result: y = Reshape(x, (0, 0, h, d)),  … use(x)
    """
    sources: dict[str, str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for node in nodes:
        given = [renamed.get(name, name) for name in node.input]
        changed = NodeProto()
        changed.CopyFrom(node)
        changed.input[:] = given
        length = axes.get(given[1], 0) if node.op_type == "Reshape" else 0
        if length == _JOINED and given[0] in sources:
            renamed[node.output[0]] = sources[given[0]]
            continue
        if length == _HEADS:
            sources[node.output[0]] = given[0]
        kept.append(changed)
    return kept


def _join_sums(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """
    Given:  s = Add(x, y),  n = SimplifiedLayerNormalization(s, g),  … use(s), use(n)
    Result: n, s = SkipSimplifiedLayerNormalization(x, y, g)
    """
    places = {node.output[0]: place for place, node in enumerate(nodes) if node.op_type == "Add"}
    joined = list(nodes)
    gone = set()
    for place, node in enumerate(nodes):
        at = places.pop(node.input[0], None) if node.op_type == _NORM else None
        if at is None:
            continue
        (epsilon,) = (a.f for a in node.attribute if a.name == "epsilon")
        joined[at] = helper.make_node(
            f"Skip{_NORM}",
            [*nodes[at].input, node.input[1]],
            [node.output[0], "", "", nodes[at].output[0]],
            name=nodes[at].name,
            domain="com.microsoft",
            epsilon=epsilon,
        )
        gone.add(place)
    return [node for place, node in enumerate(joined) if place not in gone]


def _drop_unused(nodes: Sequence[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """Remove nodes whose results are not read."""
    uses = Counter(name for node in nodes for name in node.input)
    kept = []
    for node in reversed(nodes):
        if any(name and (uses[name] or name in outputs) for name in node.output):
            kept.append(node)
        else:
            uses.subtract(node.input)
    return kept[::-1]
