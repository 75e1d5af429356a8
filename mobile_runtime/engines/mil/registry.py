"""The operations that the interpreter knows: `op type -> Definition`.

An operation is a function whose parameters carry the names that MIL gives its inputs; optional
inputs are parameters with defaults. It takes and returns arrays (floats always float32), several
outputs as a tuple. Callers round the results and convert their integer types.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from mobile_runtime.errors import InputError

Result = Literal["computed", "copied", "viewed", "object"]
F = TypeVar("F", bound=Callable[..., Any])


class UnsupportedOperation(InputError):
    """An operation, or an option of one, that this interpreter does not have."""


@dataclass(frozen=True)
class Definition:
    """How to call one type of operation.

    `result` says what its outputs are: "computed" are new arrays to be rounded, "copied" new
    arrays of values that are already rounded, "viewed" may share memory with the first input,
    "object" Python values, which stay as they are.
    `weights` may be given unexpanded, `lists` always as tuples. An operation with blocks takes
    them as `blocks`, functions from the blocks' inputs to a tuple of their outputs. One that may
    write in place takes `detach`, to be called with the memory before it is written.
    """

    function: Callable[..., Any]
    result: Result
    weights: frozenset[str]
    lists: frozenset[str]
    parameters: frozenset[str]
    first: str


_RESERVED = ("blocks", "detach")
OPERATIONS: dict[str, Definition] = {}


def register(
    *types: str,
    result: Result = "computed",
    weights: tuple[str, ...] = (),
    lists: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Make the decorated function the implementation of `types`. Raises `KeyError` for a type that
    has one already."""

    def add(function: F) -> F:
        parameters = [n for n in inspect.signature(function).parameters if n not in _RESERVED]
        for name in types:
            if name in OPERATIONS:
                raise KeyError(f"operation {name!r} is registered twice")
            OPERATIONS[name] = Definition(
                function,
                result,
                frozenset(weights),
                frozenset(lists),
                frozenset(parameters),
                parameters[0],
            )
        return function

    return add
