"""Memory of this process."""

from __future__ import annotations

import resource
import sys

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes, pages of mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
