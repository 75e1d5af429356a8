"""Which operations of a program the interpreter has, told before any of them runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mobile_runtime.mlprogram.census import operations_of
from mobile_runtime.mlprogram.program import Function

from .constexpr import CONSTANTS
from .registry import OPERATIONS, UnsupportedOperation


def is_known(type: str) -> bool:
    """Whether the interpreter has operations of this type; a constant is one."""
    return type == "const" or type in CONSTANTS or type in OPERATIONS


def missing_operations(functions: Iterable[Function]) -> Counter[str]:
    """Types of operations that the interpreter does not have, with how many there are of each."""
    found = (op.type for function in functions for op in operations_of(function.block))
    return Counter(type for type in found if not is_known(type))


def check_operations(package: str, functions: Iterable[Function]) -> None:
    """Raises `UnsupportedOperation`, which names all of them, if the interpreter does not have some
    operations of `package`."""
    if missing := missing_operations(functions):
        listed = ", ".join(f"{type} ({count} times)" for type, count in missing.most_common())
        raise UnsupportedOperation(
            f"{package} cannot be run: this interpreter does not have its operations "
            f"{listed:.500}; convert the model without them."
        )
