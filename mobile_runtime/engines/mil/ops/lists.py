"""Operations on lists of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import ALIASES, ELEMENT_TYPES, Array

from ..lists import TensorList
from ..registry import register


@register("make_list", result="object", lists=("elem_shape",))
def make_list(
    elem_shape: tuple[Any, ...] = (),
    init_length: Any = 1,
    dynamic_length: Any = True,
    dtype: Any = "fp32",
) -> TensorList:
    """A list of `init_length` elements; a size that is a symbol's name is that of what is written
    first."""
    sizes = [item for value in elem_shape for item in np.ravel(value).tolist()]
    shape = tuple(-1 if isinstance(size, str) else int(size) for size in sizes)
    element = ELEMENT_TYPES[ALIASES.get(str(dtype), str(dtype))]
    return TensorList((None,) * int(init_length), shape, element.computed, bool(dynamic_length))


@register("list_length")
def list_length(ls: TensorList) -> Array:
    """The number of elements."""
    return np.array(len(ls.items), np.int32)


@register("list_read", result="copied")
def list_read(ls: TensorList, index: Array) -> Array:
    """The element at `index`; zeros if it was never written."""
    return ls.read(int(index))


@register("list_gather", result="copied")
def list_gather(ls: TensorList, indices: Array) -> Array:
    """The elements at `indices`, along a new first axis."""
    found = [ls.read(position) for position in np.ravel(indices).tolist()]
    return np.stack(found) if found else np.zeros((0, *ls.shape), ls.dtype)


@register("list_write", result="object")
def list_write(ls: TensorList, index: Array, value: Array) -> TensorList:
    """The list with `value` at `index`; a list of dynamic length grows to hold it."""
    return ls.written([(int(index), value)])


@register("list_scatter", result="object")
def list_scatter(ls: TensorList, indices: Array, value: Array) -> TensorList:
    """The list with each of the slices of `value` along its first axis at its index."""
    return ls.written(zip(np.ravel(indices).tolist(), value, strict=True))
