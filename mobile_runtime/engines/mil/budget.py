"""What a package may take: memory for the values of one call, and work, within its loops too."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import prod
from typing import Any

from mobile_runtime.engines.memory import Limits, memory_share
from mobile_runtime.errors import InputError

# Of the values that live at one time, without weights, inputs and states, where a quarter of the
# memory is less. Of a model with pictures of 448, and of a prefill block over a context of 32,768,
# they take a fifth of it; with pictures of 980, attention scores and their softmax take 3.1 GB.
_LEAST_LIVE_BYTES = 2 << 30
STATE_BYTES = 8 << 30  # of one package: keys and values of ten layers at that context take half
_LOOP_OPERATIONS = 1 << 16  # in the blocks of loops and conditions, per call
_LOOP_BYTES = 32 << 30  # of the results of these
# Multiplications of one call: eight times those of all 36 layers for a prompt of 4,096 tokens, and
# a hundred times those of our largest call, a picture of 980. Two cores compute them in hours.
_MULTIPLICATIONS = 500 * 10**12
_PER_ELEMENT = 100  # multiplications of a product that take as long as an element of other results
_ITEM = 4  # bytes per element: values are float32 or int32, and short-lived ones at most twice that
# What a user does who trusts a package; the option of the commands has the name of the limit.
_ALLOW = "allow more of a package that you trust (--{0}, or Limits in a program)"


def live_bytes(limits: Limits) -> int:
    """What the values of one call may take at one time."""
    given = limits.memory_bytes
    return memory_share(_LEAST_LIVE_BYTES) if given is None else given


class Budget:
    """What is left of it during one call. The memory of `given`, which are inputs, states and
    constants, does not count; `memory_of` says what a value lies in, see `Arithmetic`."""

    def __init__(
        self,
        limits: Limits,
        given: Sequence[Any],
        memory_of: Callable[[Any], list[tuple[Hashable, int]]],
    ) -> None:
        self._live_bytes = live_bytes(limits)
        self._work = limits.work
        self._given = given
        self._memory_of = memory_of
        self._taken = 0  # since the living values were last counted
        self._multiplications = 0
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
                f"do not use it, {_ALLOW.format('memory')}, or export the model with a shorter "
                "context or smaller pictures."
            )

    def take_work(self, elements: int, multiplications: int) -> None:
        """Before an operation that makes `elements` by so many multiplications. Raises `InputError`
        if the call would pass what any model's does."""
        self._multiplications += multiplications + _PER_ELEMENT * elements
        most = int(self._work * _MULTIPLICATIONS)
        if self._multiplications > most:
            raise InputError(
                f"with it the call does the work of {self._multiplications:,} multiplications and "
                f"may do {most:,}: do not use it, or {_ALLOW.format('work')}."
            )

    def take_in_loop(self, elements: int) -> None:
        """Before each operation within a loop or a condition. Raises `InputError` if they have done
        more than any model's would."""
        self._operations += 1
        self._looped += _ITEM * elements
        operations, size = self._work * _LOOP_OPERATIONS, self._work * _LOOP_BYTES
        if self._operations > operations or self._looped > size:
            raise InputError(
                f"its loops go on after {operations:,.0f} operations or {size / (1 << 30):,.3g} GB "
                f"of results: do not use it, or {_ALLOW.format('work')}."
            )


def check_states(package: str, shapes: Sequence[tuple[int, ...]], limits: Limits) -> None:
    """Raises `InputError` if the states of `package` have open sizes, or are larger than any
    model's and than the memory that `limits` allow."""
    total = sum(_ITEM * prod(shape) for shape in shapes)
    most = max(STATE_BYTES, limits.memory_bytes or 0)
    if total > most or any(size < 0 for shape in shapes for size in shape):
        raise InputError(
            f"The states of {package} take {total:,} bytes and may take {most:,}, each of a fixed "
            f"shape; do not use it, or {_ALLOW.format('memory')}."
        )
