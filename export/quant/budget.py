"""Mixed bits: a storage option for each matrix, so that the sum of forecast losses is least and the
bytes stay within a budget.

With a price λ of a byte, each matrix takes the option of least loss + λ · bytes on its own. The
sum of these minima less λ · budget is a lower bound of what any choice within the budget loses.
The price is found by bisection; what is left of the budget goes to single matrices, the best first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_STEPS = 100  # of the bisection


@dataclass(frozen=True)
class Option:
    """The way `number` to store a matrix, or several together: its bytes, and the loss that is
    forecast."""

    number: int
    size: int
    loss: float


@dataclass(frozen=True)
class Choice:
    """An option for each key, and the share of their loss by which another choice could at most
    be better."""

    chosen: Mapping[Any, Option]
    gap: float

    @property
    def size(self) -> int:
        """Bytes of all matrices."""
        return sum(option.size for option in self.chosen.values())

    @property
    def loss(self) -> float:
        """The forecast of all matrices."""
        return sum(option.loss for option in self.chosen.values())


def choose(options: Mapping[Any, Sequence[Option]], budget: int) -> Choice:
    """Choose within `budget` bytes, which hold the smallest option of every matrix."""
    low, high = 0.0, 1.0
    if (found := _at_price(options, low)).size <= budget:
        return found
    while _at_price(options, high).size > budget:
        high *= 2
    bound = 0.0
    for _ in range(_STEPS):
        price = (low + high) / 2
        found = _at_price(options, price)
        bound = max(bound, found.loss + price * (found.size - budget))
        low, high = (price, high) if found.size > budget else (low, price)
    chosen = _spend(dict(_at_price(options, high).chosen), options, budget)
    loss = Choice(chosen, 0.0).loss
    return Choice(chosen, (loss - bound) / loss if loss > 0 else 0.0)


def _at_price(options: Mapping[Any, Sequence[Option]], price: float) -> Choice:
    chosen = {
        key: min(given, key=lambda option: (option.loss + price * option.size, option.size))
        for key, given in options.items()
    }
    return Choice(chosen, 0.0)


def _spend(
    chosen: dict[Any, Option], options: Mapping[Any, Sequence[Option]], budget: int
) -> dict[Any, Option]:
    """Give what is left of the budget to the matrices that gain most by it."""
    while True:
        left = budget - sum(option.size for option in chosen.values())
        gains = [
            (chosen[key].loss - option.loss, key, option)
            for key, given in options.items()
            for option in given
            if option.size - chosen[key].size <= left and option.loss < chosen[key].loss
        ]
        if not gains:
            return chosen
        _, key, option = max(gains, key=lambda gain: gain[0])
        chosen[key] = option
