"""Which operations of a program the interpreter does not have: all of them at once, with counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mobile_runtime.mlprogram.census import operations_of
from mobile_runtime.mlprogram.program import Function, Operation

from . import ops as _operations  # noqa: F401 — registers them
from .constexpr import WeightBuilder
from .registry import OPERATIONS, UnsupportedOperation
from .values import ExpandedWeights


def missing_operations(functions: Iterable[Function]) -> dict[str, int]:
    """Type -> how often, the most frequent first. A type that is there, but not with the inputs
    that the program gives it, is named with them."""
    found = (_missing(op) for function in functions for op in operations_of(function.block))
    counts = Counter(filter(None, found))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _missing(op: Operation) -> str:
    if op.type == "const" or (op.type.startswith("constexpr_") and _is_built(op.type)):
        return ""
    definition = OPERATIONS.get(op.type)
    if definition is None:
        return op.type
    unknown = sorted(op.inputs.keys() - definition.parameters)
    return f"{op.type} with {', '.join(unknown)}" if unknown else ""


def _is_built(weight_type: str) -> bool:
    """Whether the builder of weights knows the type: if so, it asks for parameters."""
    try:
        WeightBuilder(ExpandedWeights(0), rounds=False).build(weight_type, {})
    except UnsupportedOperation:
        return False
    except KeyError:
        return True
    return True
