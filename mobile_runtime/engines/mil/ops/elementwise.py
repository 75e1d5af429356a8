"""Operations on single elements, with numpy's broadcasting for those of two tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import ALIASES, ELEMENT_TYPES, Array

from ..blockwise import apply
from ..registry import UnsupportedOperation, register
from ..special import erf

_BINARY: dict[str, np.ufunc] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": np.true_divide,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}
_UNARY: dict[str, np.ufunc] = {
    "abs": np.abs,
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "logical_not": np.logical_not,
    "round": np.rint,
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}


def _register_ufuncs() -> None:
    def binary(ufunc: np.ufunc) -> Any:
        return lambda x, y: apply(ufunc, x, y)

    def unary(ufunc: np.ufunc) -> Any:
        return lambda x: ufunc(x)

    for name, function in _BINARY.items():
        register(name)(binary(function))
    for name, function in _UNARY.items():
        register(name)(unary(function))


_register_ufuncs()
register("erf")(erf)


@register("inverse")
def inverse(x: Array, epsilon: float = 1e-4) -> Array:
    """1 / (x + epsilon)."""
    return 1 / (x + epsilon)


@register("log")
def log(x: Array, epsilon: float = 1e-45) -> Array:
    """Natural logarithm of x + epsilon."""
    return np.log(x + epsilon)


@register("rsqrt")
def rsqrt(x: Array, epsilon: float = 1e-12) -> Array:
    """1 / √(x + epsilon)."""
    return 1 / np.sqrt(x + epsilon)


@register("clip")
def clip(x: Array, alpha: Array, beta: Array) -> Array:
    """Limit to alpha … beta."""
    return np.minimum(np.maximum(x, alpha), beta)


@register("threshold")
def threshold(x: Array, alpha: Array) -> Array:
    """max(x, alpha)."""
    return np.maximum(x, alpha)


@register("select")
def select(cond: Array, a: Array, b: Array) -> Array:
    """`a` where `cond`, else `b`."""
    return np.where(np.asarray(cond, bool), a, b)


@register("identity", result="viewed")
def identity(x: Array) -> Array:
    """`x` itself."""
    return x


@register("cast")
def cast(x: Array, dtype: Any) -> Array:
    """Convert; floats to integers towards zero. Rounding to half is left to the caller."""
    name = str(dtype)
    element = ELEMENT_TYPES.get(ALIASES.get(name, name))
    if element is None:
        raise UnsupportedOperation(
            f"cast to {name!r} is not supported; allowed are {', '.join(ELEMENT_TYPES)}."
        )
    return x.astype(element.computed)
