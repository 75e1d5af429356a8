"""Operations on single elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobile_runtime.mlprogram.dtypes import ALIASES, ELEMENT_TYPES

from ..forms import form
from .wide import wide

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}
# Integers that are divided by 0, or to a fraction, follow numpy.
_BINARY_OF_FLOATS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "real_div": torch.true_divide,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "pow": torch.pow,
}
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}


def _form_functions() -> None:
    def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Any:
        return lambda x, y: function(x, y)

    def of_floats(function: Callable[[Tensor, Tensor], Tensor]) -> Any:
        def apply(x: Tensor, y: Tensor) -> Any:
            if not (x.is_floating_point() and y.is_floating_point()):
                return NotImplemented
            return function(x, y)

        return apply

    def unary(function: Callable[[Tensor], Tensor]) -> Any:
        return lambda x: function(x)

    for name, operation in _BINARY.items():
        form(name, tensors=("x", "y"))(binary(operation))
    for name, operation in _BINARY_OF_FLOATS.items():
        form(name, tensors=("x", "y"))(of_floats(operation))
    for name, function in _UNARY.items():
        form(name)(unary(function))


_form_functions()


@form("inverse")
def inverse(x: Tensor, epsilon: Any = 1e-4) -> Tensor:
    """1 / (x + epsilon)."""
    return 1 / (wide(x) + float(epsilon))


@form("log")
def log(x: Tensor, epsilon: Any = 1e-45) -> Tensor:
    """Natural logarithm of x + epsilon."""
    return torch.log(wide(x) + float(epsilon))


@form("rsqrt")
def rsqrt(x: Tensor, epsilon: Any = 1e-12) -> Tensor:
    """1 / √(x + epsilon)."""
    return 1 / torch.sqrt(wide(x) + float(epsilon))


@form("clip")
def clip(x: Tensor, alpha: Any, beta: Any) -> Tensor:
    """Limit to alpha … beta."""
    return torch.clamp(wide(x), float(alpha), float(beta))


@form("threshold")
def threshold(x: Tensor, alpha: Any) -> Tensor:
    """max(x, alpha)."""
    return torch.clamp(wide(x), min=float(alpha))


@form("select", tensors=("cond", "a", "b"))
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where `cond`, else `b`."""
    return torch.where(cond.bool(), a, b)


@form("identity")
def identity(x: Tensor) -> Tensor:
    """`x` itself."""
    return x


@form("cast")
def cast(x: Tensor, dtype: Any) -> Any:
    """Convert; floats to integers towards zero. Rounding to half is left to the caller."""
    element = ELEMENT_TYPES.get(ALIASES.get(str(dtype), str(dtype)))
    if element is None or element.computed not in _CASTS:
        return NotImplemented
    return x.to(_CASTS[element.computed], copy=True)


_CASTS = {
    np.dtype("bool"): torch.bool,
    np.dtype("float32"): torch.float32,
    np.dtype("int32"): torch.int32,
}
