"""Time and memory of a piece of work, the memory sampled while it runs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

from export.build.memory import peak_memory

_STATUS = Path("/proc/self/status")
_INTERVAL = 0.01  # seconds between samples


def memory_bytes() -> int:
    """Memory that this process holds, mapped files left out; if the system does not report it
    (outside Linux), the most that the process has held so far, mapped files included."""
    if not _STATUS.exists():
        return peak_memory()
    lines = (line.split() for line in _STATUS.read_text(encoding="ascii").splitlines())
    return sum(1024 * int(words[1]) for words in lines if words[0] in ("RssAnon:", "RssShmem:"))


class Meter:
    """`with Meter() as meter: …`, then `meter.seconds` and `meter.peak_bytes`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Meter:
        self._begin = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._begin
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, memory_bytes())
            if self._stop.wait(_INTERVAL):
                return
