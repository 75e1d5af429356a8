"""Lists of tensors of one shape, which `make_list` makes and loops fill.

A list is never changed: writing gives another one, which shares the elements that stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.dtypes import Array


@dataclass(frozen=True)
class TensorList:
    """Elements by position; None where nothing was written, which reads as zeros. `shape` is that
    of an element, with −1 for sizes known only once one is written. It grows if `is_dynamic`."""

    items: tuple[Array | None, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    is_dynamic: bool

    def written(self, places: Iterable[tuple[int, Array]]) -> TensorList:
        """The list with copies of the given elements at their positions. Raises `InputError` for a
        position outside of a list of fixed length."""
        items = list(self.items)
        for position, value in places:
            index = self._inside(position, grows=self.is_dynamic)
            items += [None] * (index + 1 - len(items))
            items[index] = np.array(value)
        return replace(self, items=tuple(items))

    def read(self, position: int) -> Array:
        """A copy of the element at `position`. Raises `InputError` if it is outside of the list, or
        was never written and has no known shape."""
        value = self.items[self._inside(position, grows=False)]
        if value is not None:
            return value.copy()
        shape = next((item.shape for item in self.items if item is not None), self.shape)
        if any(size < 0 for size in shape):
            raise InputError(f"element {position} is read before any was written.")
        return np.zeros(shape, self.dtype)

    def _inside(self, position: int, grows: bool) -> int:
        if position < 0 or (position >= len(self.items) and not grows):
            raise InputError(f"position {position} is outside of a list of {len(self.items)}.")
        return position
