"""Names of weights inside a package."""

from __future__ import annotations


def const_name(weight: str) -> str:
    """The value that holds a weight, or a part of one."""
    return "weight_" + weight.replace(".", "_").replace("/", "_")
