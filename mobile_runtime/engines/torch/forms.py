"""The operations that have a form in PyTorch: `op type -> TorchForm`.

A form is a function with the parameters of the interpreter's own operation (`OPERATIONS`), and its
results share memory only where those of that operation may. Other operations are computed there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class TorchForm:
    """How to call one type of operation.

    `tensors` are the parameters that it takes as tensors on its device. All others come as numpy's
    arrays, those in `either` only if they are not on the device. A function that returns
    `NotImplemented` leaves these arguments to the interpreter's own operation.
    """

    function: Callable[..., Any]
    tensors: frozenset[str]
    either: frozenset[str]


TENSOR_FORMS: dict[str, TorchForm] = {}


def form(
    *types: str, tensors: tuple[str, ...] = ("x",), either: tuple[str, ...] = ()
) -> Callable[[F], F]:
    """Make the decorated function the form of `types`. Raises `KeyError` for a type that has one
    already."""

    def add(function: F) -> F:
        for name in types:
            if name in TENSOR_FORMS:
                raise KeyError(f"operation {name!r} has a form already")
            TENSOR_FORMS[name] = TorchForm(function, frozenset(tensors), frozenset(either))
        return function

    return add
