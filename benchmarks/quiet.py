"""Samples of a speed, and which of them count: those in which no other process had the processor.

A neighbour slows tools unequally: one that waits by spinning loses more than one that sleeps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

QUIET = 0.06  # of the machine's processors that others may have had
_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Sample:
    """`tokens` took `seconds`; others had the share `others` of all processors."""

    tokens: int
    seconds: float
    others: float

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def choose(samples: Sequence[Sample]) -> tuple[Sample, bool]:
    """The fastest quiet sample and True; if none is quiet, the least disturbed one and False."""
    quiet = [sample for sample in samples if sample.others <= QUIET]
    if quiet:
        return max(quiet, key=lambda sample: sample.rate), True
    return min(samples, key=lambda sample: sample.others), False


class Stopwatch:
    """Seconds since it was made, and what others took of the processors. With `alone`, a single
    thread is timed by its own processor time, on which neighbours have no effect."""

    def __init__(self, alone: bool = False) -> None:
        self._alone = alone
        self._seconds, self._own, self._busy = self._now()

    def sample(self, tokens: int) -> Sample:
        """Return the time since then as a sample."""
        seconds, own, busy = self._now()
        wall = seconds - self._seconds
        if self._alone:
            return Sample(tokens, wall, 0.0)
        others = max(0.0, (busy - self._busy) - (own - self._own))
        return Sample(tokens, wall, others / (wall * (os.cpu_count() or 1)))

    def _now(self) -> tuple[float, float, float]:
        clock = time.thread_time if self._alone else time.perf_counter
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return clock(), own, busy_seconds(_STAT.read_text())


def time_call(run: Callable[[], object], tokens: int, threads: int) -> Sample:
    """One call that gives `tokens` on so many threads."""
    watch = Stopwatch(alone=threads == 1)
    run()
    return watch.sample(tokens)


def busy_seconds(stat: str) -> float:
    """Time that the processors of a /proc/stat were in use, or taken by other machines."""
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
