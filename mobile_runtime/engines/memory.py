"""How much memory graphs may take: a bundle is data that may ask for any amount."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SHARE = 4  # parts of the memory, of which the values of graphs may take one
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


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
