"""Watches a process and all that it starts: memory of its own, mapped file pages, disk traffic.

Linux only: the figures come from /proc.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_INTERVAL = 0.05  # seconds between looks, at least
_SHARE = 0.05  # of the time that looking may take: large processes are slow to look at
_PROC = Path("/proc")


@dataclass
class Usage:
    """Peaks over time of sums over processes, in bytes: what processes share counts once. Traffic
    is that with the disk itself, caches not counted."""

    own: int = 0  # memory that would be lost with the process
    mapped: int = 0  # pages of files, which the system drops when it needs room
    read: int = 0
    written: int = 0


class Watch:
    """`with Watch(pid) as watch: …` fills `watch.usage` until the block ends."""

    def __init__(self, pid: int) -> None:
        self.usage = Usage()
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause = _INTERVAL
        while not self._stop.wait(pause):
            started = time.perf_counter()
            self._look()
            pause = max(_INTERVAL, (time.perf_counter() - started) / _SHARE)

    def _look(self) -> None:
        own = mapped = read = written = 0
        for pid in _tree(self._pid):
            memory = _fields(_PROC / str(pid) / "smaps_rollup")
            own += 1024 * (memory.get("Pss_Anon", 0) + memory.get("Pss_Shmem", 0))
            mapped += 1024 * memory.get("Pss_File", 0)
            traffic = _fields(_PROC / str(pid) / "io")
            read += traffic.get("read_bytes", 0)
            written += traffic.get("write_bytes", 0)
        seen = self.usage  # a process that has ended counts in its parent's traffic
        self.usage = Usage(
            max(seen.own, own),
            max(seen.mapped, mapped),
            max(seen.read, read),
            max(seen.written, written),
        )


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in (_PROC / str(pid) / "task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tree(int(child))


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a "name: number" file; none when the process has ended."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name: int(rest.split()[0]) for name, rest in pairs if rest.split()[:1] and _whole(rest)}


def _whole(text: str) -> bool:
    return text.split()[0].isdigit()
