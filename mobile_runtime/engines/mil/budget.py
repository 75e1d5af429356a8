"""What a package may take: memory for the values of one call, and work within its loops."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import prod
from typing import Any

from mobile_runtime.engines.memory import memory_share
from mobile_runtime.errors import InputError

# Of the values that live at one time, without weights, inputs and states, where a quarter of the
# memory is less. Of a model with pictures of 448, and of a prefill block over a context of 32,768,
# they take a fifth of it; with pictures of 980, attention scores and their softmax take 3.1 GB.
_LEAST_LIVE_BYTES = 2 << 30
STATE_BYTES = 8 << 30  # of one package: keys and values of ten layers at that context take half
_LOOP_OPERATIONS = 1 << 16  # in the blocks of loops and conditions, per call
_LOOP_BYTES = 32 << 30  # of the results of these
_ITEM = 4  # bytes per element: values are float32 or int32, and short-lived ones at most twice that


def default_live_bytes() -> int:
    """What the values of one call may take at one time, unless an engine is told otherwise."""
    return memory_share(_LEAST_LIVE_BYTES)


class Budget:
    """What is left of it during one call. The memory of `given`, which are inputs, states and
    constants, does not count; `memory_of` says what a value lies in, see `Arithmetic`."""

    def __init__(
        self,
        live_bytes: int,
        given: Sequence[Any],
        memory_of: Callable[[Any], list[tuple[Hashable, int]]],
    ) -> None:
        self._live_bytes = live_bytes
        self._given = given
        self._memory_of = memory_of
        self._taken = 0  # since the living values were last counted
        self._operations = 0
        self._looped = 0

    def take(self, elements: int, slots: Sequence[Any]) -> None:
        """Before `elements` are made beside the values of `slots`. Raises `InputError` if they
        would pass the budget. Values are counted only when an eighth of it was taken since."""
        self._taken += _ITEM * elements
        if self._taken <= self._live_bytes >> 3:
            return
        self._taken = _ITEM * elements
        living = dict(piece for value in slots for piece in self._memory_of(value))
        given = {key for value in self._given for key, _ in self._memory_of(value)}
        total = self._taken + sum(n for key, n in living.items() if key not in given)
        if total > self._live_bytes:
            raise InputError(
                f"its values take {total:,} bytes at one time and may take {self._live_bytes:,}: "
                "do not use it, run it where there is more memory, or export the model with a "
                "shorter context or smaller pictures."
            )

    def take_in_loop(self, elements: int) -> None:
        """Before each operation within a loop or a condition. Raises `InputError` if they have done
        more than any model's would."""
        self._operations += 1
        self._looped += _ITEM * elements
        if self._operations > _LOOP_OPERATIONS or self._looped > _LOOP_BYTES:
            raise InputError(
                f"its loops go on after {_LOOP_OPERATIONS:,} operations or "
                f"{_LOOP_BYTES >> 30} GB of results: do not use it."
            )


def check_states(package: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises `InputError` if the states of `package` have open sizes, or are larger than any
    model's."""
    total = sum(_ITEM * prod(shape) for shape in shapes)
    if total > STATE_BYTES or any(size < 0 for shape in shapes for size in shape):
        raise InputError(
            f"The states of {package} take {total:,} bytes and may take {STATE_BYTES:,}, each of a "
            "fixed shape; do not use it."
        )
