"""Weights of the references that stay in memory: the last ones used, within a budget in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class LoadedWeights:
    """Values by key. Before a value is loaded, others are dropped, least recently used first, until
    it fits into `budget`; a value larger than the budget is held without others."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._values: OrderedDict[Hashable, tuple[int, Any]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes of all values that are held."""
        return sum(nbytes for nbytes, _ in self._values.values())

    def get(self, key: Hashable, nbytes: int, load: Callable[[], T]) -> T:
        """The value of `key`; `load` makes it, `nbytes` large, if it is not held."""
        if key not in self._values:
            while self._values and self.nbytes + nbytes > self._budget:
                self._values.popitem(last=False)
            self._values[key] = nbytes, load()
        self._values.move_to_end(key)
        value: T = self._values[key][1]
        return value
