"""Executes a saved `.mlpackage` in half and in full precision at once, operation by operation, and
tells an observer what the rounding of each result does.

Every value is a pair: as a device holds it, and as exact arithmetic in float32 has it. An operation
is computed on both. Before its half result is rounded it is what the operation gives, in float32,
for its own half inputs: the rounding is the operation's own (local) error, and the distance to the
full result the accumulated one. Weights are the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mobile_runtime.bundle import TensorSpec
from mobile_runtime.engines.memory import Limits
from mobile_runtime.mlprogram.dtypes import Array
from mobile_runtime.mlprogram.program import Operation, Program

from .arithmetic import Arguments, NumpyArithmetic
from .engine import MilEngine
from .number_kernels import measure_rounding
from .threads import run_blocks
from .values import Weight

if TYPE_CHECKING:
    from .plan import Output, Step

_BLOCK = 1 << 18  # elements; as for rounding
_RANDOM = "random_"  # types of operations that give other numbers at each call


@dataclass(frozen=True)
class Rounding:
    """What rounding does to one result, or to several results of one operation together.

    `largest` is the largest finite magnitude before rounding, `overflows` how many finite values
    become infinite, `given` how many are infinite or NaN before (the inputs' fault), `subnormals`
    how many are below 2^-14 without being zero. `local` and `accumulated` are sums of squared
    errors over `count` elements that are finite on both sides, `full_largest` the largest magnitude
    in full precision, `lost` how many elements are finite there only, `zeros` how many are zero.
    """

    count: int = 0
    largest: float = 0.0
    overflows: int = 0
    given: int = 0
    subnormals: int = 0
    local: float = 0.0
    accumulated: float = 0.0
    full_largest: float = 0.0
    lost: int = 0
    zeros: int = 0

    def __add__(self, other: Rounding) -> Rounding:
        return Rounding(
            self.count + other.count,
            max(self.largest, other.largest),
            self.overflows + other.overflows,
            self.given + other.given,
            self.subnormals + other.subnormals,
            self.local + other.local,
            self.accumulated + other.accumulated,
            max(self.full_largest, other.full_largest),
            self.lost + other.lost,
            self.zeros + other.zeros,
        )


class Observer(Protocol):
    """Is told of every result in the order of computation."""

    def __call__(
        self, package: str, function: str, operation: Operation, name: str, found: Rounding | None
    ) -> None:
        """`name` is the result's name, by which `run --keep` gives it too. `found` is None for one
        that is not rounded: values that are moved, integers, float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A value in both precisions; integers and objects have both sides as well, since they may
    follow from floats."""

    half: Any
    full: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the half side."""
        return tuple(self.half.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the half side."""
        found: np.dtype[Any] = self.half.dtype
        return found

    def __bool__(self) -> bool:
        """The half side decides about conditions and loops."""
        return bool(self.half)


class PairArithmetic(NumpyArithmetic):
    """Pairs of numpy's arrays. Inputs in float are rounded on the half side only; what leaves the
    engine is the full side, so that packages that follow are given exact inputs."""

    def __init__(self, tell: Callable[[Operation, str, Rounding | None], None]) -> None:
        super().__init__(half=True)
        self._tell = tell
        self._operation: Operation | None = None

    def bind(
        self, step: Step, arguments: Arguments, expand: Callable[[Any], Any]
    ) -> tuple[Callable[..., Any], Arguments]:
        """A call on the half sides that computes on the full sides as well."""
        call, arguments = super().bind(step, arguments, expand)
        halves = {name: _side(value, "half") for name, value in arguments.items()}
        fulls = {name: _side(value, "full") for name, value in arguments.items()}
        once = step.operation.type.startswith(_RANDOM) or all(
            halves[name] is arguments[name] for name in arguments
        )

        def both(**given: Any) -> Any:
            if step.blocks:  # its values pass through, and the blocks compute with pairs
                results = call(**arguments, blocks=given["blocks"])
                self._operation = step.operation
                return tuple(r if isinstance(r, Pair) else Pair(r, r) for r in results)
            half = call(**given)
            changed = {name: given[name] for name in given.keys() - fulls.keys()}
            full = half if once else call(**fulls, **changed)
            self._operation = step.operation
            if isinstance(half, tuple):
                return tuple(Pair(*sides) for sides in zip(half, full, strict=True))
            return Pair(half, full)

        return both, halves

    def finish(self, result: Any, output: Output) -> Any:
        """See `Arithmetic.finish`; a result that is rounded is measured."""
        assert isinstance(result, Pair) and self._operation is not None
        if not output.rounds:
            self._tell(self._operation, output.name, None)
        if output.dtype is None or isinstance(result.half, str):
            return result
        half, full = (_typed(side, output.dtype) for side in (result.half, result.full))
        if not output.rounds:
            return Pair(half, full)
        if full is half or not (half.flags.writeable and half.flags.c_contiguous):
            half = half.copy(order="C")
        same = full.shape == half.shape  # how many elements there are may follow from values
        found = _round(half, np.ascontiguousarray(full) if same else half.copy())
        self._tell(self._operation, output.name, found)
        return Pair(half, full)

    def copy(self, value: Any) -> Any:
        """Both sides copied."""
        if isinstance(value, Pair):
            copied: Any = Pair(super().copy(value.half), super().copy(value.full))
            return copied
        return super().copy(value)

    def overlaps(self, value: Any, region: Any) -> bool:
        """Whether either side may share memory with an array."""
        sides = (value.half, value.full) if isinstance(value, Pair) else (value,)
        return any(super(PairArithmetic, self).overlaps(side, region) for side in sides)

    def memory_of(self, value: Any) -> list[tuple[Hashable, int]]:
        """The memory of the half side: limits are about a plain run."""
        return super().memory_of(value.half if isinstance(value, Pair) else value)

    def from_input(self, given: Array, spec: TensorSpec) -> Any:
        """The input as it is, and rounded."""
        full = given.astype(np.float32) if given.dtype.kind == "f" else given
        return Pair(super().from_input(given, spec), NumpyArithmetic(False).from_input(full, spec))

    def zeros(self, spec: TensorSpec) -> Any:
        """A state of zeros on both sides."""
        return Pair(super().zeros(spec), super().zeros(spec))

    def is_state(self, value: Any, spec: TensorSpec) -> bool:
        """Whether `value` is what `zeros` gives."""
        return isinstance(value, Pair) and super().is_state(value.half, spec)

    def write_beginning(self, state: Any, value: Array) -> None:
        """Overwrite the beginning of both sides."""
        super().write_beginning(state.half, value)
        super().write_beginning(state.full, value)

    def to_array(self, value: Any) -> Any:
        """The full side."""
        return value.full if isinstance(value, Pair) else value


class PairEngine(MilEngine):
    """One package, loaded, whose results an observer is told of. What `run` returns is computed in
    full precision."""

    def __init__(
        self,
        package: str | Path,
        observer: Observer,
        *,
        limits: Limits = Limits(),
        program: Program | None = None,
    ) -> None:
        """See `MilEngine`."""
        self._observer, self._running = observer, ""
        arithmetic = PairArithmetic(self._tell)
        super().__init__(
            package, precision="fp16", limits=limits, program=program, arithmetic=arithmetic
        )

    def run(
        self, inputs: Mapping[str, Array], *, function: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """See `MilEngine.run`."""
        self._running = self._program.default_function if function is None else function
        return super().run(inputs, function=function, **options)

    def _tell(self, operation: Operation, name: str, found: Rounding | None) -> None:
        self._observer(self._package.name, self._running, operation, name, found)


def _side(value: Any, side: str) -> Any:
    """One side of a value, or of each of several; the same object if it has no sides."""
    if isinstance(value, Pair):
        return getattr(value, side)
    if isinstance(value, tuple) and any(isinstance(item, Pair) for item in value):
        return tuple(_side(item, side) for item in value)
    return value


def _typed(value: Any, dtype: np.dtype[Any]) -> Array:
    array = np.asarray(value.dense() if isinstance(value, Weight) else value)
    return array if array.dtype == dtype else array.astype(dtype)


def _round(half: Array, full: Array) -> Rounding:
    """Round `half` in place, which is contiguous; what that does, and how far `full` is."""
    flat, exact = half.reshape(-1), full.reshape(-1)
    found: list[Array] = []

    def measure(begin: int, end: int) -> None:
        figures = np.zeros(10)
        measure_rounding(flat[begin:end], exact[begin:end], figures)
        found.append(figures)

    run_blocks(measure, flat.size, _BLOCK)
    return sum((_figures(one) for one in found), Rounding())


def _figures(one: Array) -> Rounding:
    """The fields of `Rounding` in their order, those that count as integers."""
    values = dict(zip((field.name for field in fields(Rounding)), one.tolist(), strict=True))
    sums = ("largest", "local", "accumulated", "full_largest")
    return Rounding(**{k: v if k in sums else int(v) for k, v in values.items()})
