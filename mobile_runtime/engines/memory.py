"""How much memory and work graphs may take: a bundle is data that may ask for any amount."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mobile_runtime.errors import InputError

_SHARE = 4  # parts of the memory, of which the values of graphs may take one
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MOST = 1e6  # GB or times: beyond every machine, and within what numbers of bytes are exact for


@dataclass(frozen=True)
class Limits:
    """What one call of a package may take in the interpreter.

    `memory` is in GB (2^30 bytes), for its values at one time, and for its states where these 8 GB
    are less; None stands for a quarter of the memory that there is, or 2 GB where that is more.
    `work` is how many times the usual bounds of loops and multiplications it may reach. Raises
    `InputError` for what is no number above 0 and up to a million.
    """

    memory: float | None = None
    work: float = 1.0

    def __post_init__(self) -> None:
        for name, value, unit in (("memory", self.memory, "GB"), ("work", self.work, "times")):
            if value is not None and not (math.isfinite(value) and 0 < value <= _MOST):
                raise InputError(
                    f"The limit of {name} is {value}; give a number above 0 and up to "
                    f"{_MOST:,.0f} {unit}, such as {8 if name == 'memory' else 10}."
                )

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else int(self.memory * (1 << 30))


def memory_share(least: int) -> int:
    """A quarter of the memory that this process may take, in bytes; `least` where that is more."""
    return max(least, min(_limits(), default=0) // _SHARE)


def _limits() -> Iterator[int]:
    """The machine's memory, a container's and the process's own limit: those that are known."""
    with suppress(AttributeError, OSError, ValueError):  # Windows has none of them
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # absent, or "max"
        yield int(_CONTAINER_LIMIT.read_text(encoding="ascii"))
    with suppress(ImportError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield limit
