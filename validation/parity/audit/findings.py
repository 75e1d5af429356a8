"""Figures of each operation, and the operation at which half precision goes wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mobile_runtime.engines.mil.pairs import Rounding
from mobile_runtime.mlprogram.program import Operation
from validation.parity.stages import FP16_FLOOR

HALF_MAX = 65504.0  # the largest finite half (IEEE 754 binary16: (2 - 2^-10) * 2^15)
_FEW_SUBNORMALS = 0.5  # share of an operation's results from which its digits are said to be lost


@dataclass(frozen=True)
class Audited:
    """One operation of a function, over all calls."""

    package: str
    function: str
    name: str  # of its result, as `run --keep` takes it
    type: str
    found: Rounding

    @property
    def headroom(self) -> float:
        """How many times its largest magnitude fits into half precision; below 1 it overflows."""
        return HALF_MAX / self.found.largest if self.found.largest else math.inf

    @property
    def subnormal_share(self) -> float:
        """Share of results below 2^-14, where half precision has fewer than 11 digits."""
        return self.found.subnormals / max(1, self.found.count)

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
                f"overflows: reaches {found.largest:.3g}, and half precision ends at "
                f"{HALF_MAX:.0f}"
            )
        if found.lost:
            return "is given infinities that an operation before it made"
        if self.accumulated_db < FP16_FLOOR and self.subnormal_share > _FEW_SUBNORMALS:
            return f"{self.subnormal_share:.0%} of its results are too small for all digits"
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


class Findings:
    """Collects what an engine tells, operation by operation; an `Observer`."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], Audited] = {}

    def __call__(
        self, package: str, function: str, operation: Operation, name: str, found: Rounding
    ) -> None:
        """See `Observer`."""
        key = (package, function, name)
        before = self._found.get(key)
        if before is None:
            self._found[key] = Audited(package, function, name, operation.type, found)
        else:
            self._found[key] = replace(before, found=before.found + found)

    @property
    def in_order(self) -> list[Audited]:
        """All operations, in the order in which they first ran."""
        return list(self._found.values())

    def worst_first(self) -> list[Audited]:
        """Sorted by `Audited.badness`; equals in the order in which they ran."""
        return sorted(self._found.values(), key=lambda one: one.badness, reverse=True)

    @property
    def start(self) -> Audited | None:
        """The operation at which half precision goes wrong: the first that overflows, else the
        first whose result is below the floor of `parity`; None if no operation is."""
        overflowing = (one for one in self.in_order if one.found.overflows)
        low = (one for one in self.in_order if one.accumulated_db < FP16_FLOOR)
        return next(overflowing, None) or next(low, None)


@dataclass(frozen=True)
class Cost:
    """What half precision costs in the end. `metrics` by name, `worst_db` of what comes out, and
    what is said about answers."""

    name: str
    worst_db: float
    metrics: Mapping[str, float]
    note: str = ""
