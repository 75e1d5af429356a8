"""Figures of each operation, and the operation at which half precision goes wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mobile_runtime.engines.mil.pairs import Rounding
from mobile_runtime.mlprogram.program import Operation
from validation.parity.stages import FP16_FLOOR

HALF_MAX = 65504.0  # the largest finite half (IEEE 754 binary16: (2 - 2^-10) * 2^15)
_Key = tuple[str, str, str]  # package, function, result
_FEW_SUBNORMALS = 0.5  # share of an operation's results from which its digits are said to be lost


@dataclass(frozen=True)
class Audited:
    """One operation of a function, over all calls."""

    package: str
    function: str
    name: str  # of its result, as `run --keep` takes it
    type: str
    found: Rounding
    after: str = ""  # the nearest operation before it whose name tells the place

    @property
    def headroom(self) -> float:
        """How many times its largest magnitude fits into half precision; below 1 it overflows."""
        return HALF_MAX / self.found.largest if self.found.largest else math.inf

    @property
    def subnormal_share(self) -> float:
        """Share of results other than zero below 2^-14, where half precision has fewer than 11
        binary digits."""
        return self.found.subnormals / max(1, self.found.count - self.found.zeros)

    @property
    def local_db(self) -> float:
        """Its own rounding, in dB below the largest value; minus infinity if it overflows."""
        lost = self.found.overflows
        return _decibels(self.found.largest, self.found.local, self.found.count, lost)

    @property
    def accumulated_db(self) -> float:
        """Its result against full precision from the package's inputs on, in the same measure."""
        found = self.found
        return _decibels(found.full_largest, found.accumulated, found.count, found.lost)

    @property
    def badness(self) -> tuple[bool, float, float]:
        """Larger is worse: overflow of its own, then distance from full precision, then rounding.
        What only passes on an infinity stands behind what made it."""
        return self.found.overflows > 0, -self.accumulated_db, -self.local_db

    def in_words(self) -> str:
        """What is wrong with it, first; "" if nothing is."""
        found = self.found
        if found.overflows:
            return (
                f"overflows: reaches {found.largest:.3g}, and half precision ends at {HALF_MAX:.0f}"
            )
        if found.lost:
            return (
                "is given infinities, by an operation before it or by inputs beyond half precision"
            )
        if self.subnormal_share > _FEW_SUBNORMALS:
            return (
                f"has {self.subnormal_share:.0%} of its results where digits are lost, below 2^-14"
            )
        if self.accumulated_db < FP16_FLOOR:
            return f"is below {FP16_FLOOR:g} dB"
        return ""

    def as_json(self) -> dict[str, Any]:
        """All figures; None stands for an infinite one."""
        figures = {
            "largest": self.found.largest,
            "headroom": self.headroom,
            "subnormal_share": self.subnormal_share,
            "local_db": self.local_db,
            "accumulated_db": self.accumulated_db,
        }
        return {
            "package": self.package,
            "function": self.function,
            "operation": self.name,
            "after": self.after,
            "type": self.type,
            "finding": self.in_words(),
            "overflows": self.found.overflows,
            "given_infinite": self.found.given,
            **{key: value if math.isfinite(value) else None for key, value in figures.items()},
        }


def _decibels(largest: float, squares: float, count: int, lost: int) -> float:
    """20·log10(largest / root mean square error), as `parity` measures."""
    if lost:
        return -math.inf
    if not squares:
        return math.inf
    return 20 * math.log10(largest / math.sqrt(squares / count)) if largest else -math.inf


def _tells_place(name: str) -> bool:
    """Whether a name is more than a type and a number, such as add_17, which converters give."""
    return re.fullmatch(r"[a-z_]+_\d+(_[a-z]+_\d+)*", name) is None


class Findings:
    """Collects what an engine tells, operation by operation; an `Observer`."""

    def __init__(self) -> None:
        self._found: dict[_Key, Audited] = {}
        self._reads: dict[_Key, tuple[str, ...]] = {}

    def __call__(
        self, package: str, function: str, operation: Operation, name: str, found: Rounding | None
    ) -> None:
        """See `Observer`."""
        key = (package, function, name)
        if key not in self._reads:
            bindings = (b for given in operation.inputs.values() for b in given)
            self._reads[key] = tuple(b for b in bindings if isinstance(b, str))
        if found is None:
            return
        before = self._found.get(key)
        if before is None:
            after = "" if _tells_place(name) else self._place_before(key)
            one = Audited(package, function, name, operation.type, found, after)
        else:
            one = replace(before, found=before.found + found)
        self._found[key] = one

    def _place_before(self, key: _Key) -> str:
        """The first name that tells a place among what a result was computed from, breadth first;
        "" if it has none."""
        left, seen = list(self._reads[key]), set()
        while left:
            name = left.pop(0)
            before = (*key[:2], name)
            if name in seen or before not in self._reads:
                continue
            if _tells_place(name):
                return name
            seen.add(name)
            left += self._reads[before]
        return ""

    def _given_by(self, one: Audited) -> list[Audited]:
        """The operations whose results it reads, through those that only move values."""
        key = one.package, one.function
        left, found = list(self._reads[*key, one.name]), []
        while left:
            before = (*key, left.pop(0))
            if before in self._found:
                found.append(self._found[before])
            elif before in self._reads:
                left += self._reads[before]
        return found

    @property
    def in_order(self) -> list[Audited]:
        """All operations, in the order in which they first ran."""
        return list(self._found.values())

    def worst_first(self) -> list[Audited]:
        """Sorted by `Audited.badness`; equals in the order in which they ran."""
        return sorted(self._found.values(), key=lambda one: one.badness, reverse=True)

    def starts(self) -> list[Audited]:
        """For each package that goes wrong, the operation at which it does, in the order in which
        the packages ran. Each is given exact inputs, so that none is charged with another's; one
        whose inputs are too large for half precision counts only if no other goes wrong."""
        packages = dict.fromkeys(one.package for one in self.in_order)
        found = (self._start([o for o in self.in_order if o.package == p]) for p in packages)
        wrong = [one for one in found if one is not None]
        return [one for one in wrong if not one.found.given] or wrong

    def _start(self, operations: Sequence[Audited]) -> Audited | None:
        """The first that overflows, else the first whose result is below the floor of `parity`, or
        what gives it numbers too small for all digits; None if no operation is below."""
        overflowing = (one for one in operations if one.found.overflows)
        if (first := next(overflowing, None)) is not None:
            return first
        low = next((one for one in operations if one.accumulated_db < FP16_FLOOR), None)
        if low is None:
            return None
        small = (b for b in self._given_by(low) if b.subnormal_share > _FEW_SUBNORMALS)
        return next(small, low)


@dataclass(frozen=True)
class Cost:
    """What half precision costs in the end. `metrics` by name, `worst_db` of what comes out, and
    what is said about answers."""

    name: str
    worst_db: float
    metrics: Mapping[str, float]
    note: str = ""
