"""Counters of a server, in the text format that Prometheus reads."""

from __future__ import annotations

import threading
from collections import Counter

from mobile_runtime.chat.stream import Statistics

_PREFIX = "minicpmv_"
# Name -> (type, what it counts); seconds are of computation, not of waiting.
_HELP = {
    "requests_total": ("counter", "Answered requests by HTTP status."),
    "cancelled_total": ("counter", "Requests whose client left before the end."),
    "prompt_tokens_total": ("counter", "Tokens of prompts."),
    "cached_tokens_total": ("counter", "Tokens of prompts that a kept cache already held."),
    "completion_tokens_total": ("counter", "Tokens of answers."),
    "vision_seconds_total": ("counter", "Time for pictures and the embeddings of prompts."),
    "prefill_seconds_total": ("counter", "Time for prompts in the decoder."),
    "decode_seconds_total": ("counter", "Time for tokens of answers."),
    "requests_waiting": ("gauge", "Requests in the queue."),
    "requests_running": ("gauge", "Requests that are answered now."),
}


class Metrics:
    """Safe for use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: Counter[int] = Counter()
        self._sums: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    def count_response(self, status: int) -> None:
        """One more response of this status."""
        with self._lock:
            self._statuses[status] += 1

    def count_cancelled(self) -> None:
        """One more client that left."""
        with self._lock:
            self._sums["cancelled_total"] += 1

    def count_answer(self, statistics: Statistics) -> None:
        """Add what one answer took."""
        with self._lock:
            self._sums["prompt_tokens_total"] += statistics.prompt_tokens
            self._sums["cached_tokens_total"] += statistics.reused_tokens
            self._sums["completion_tokens_total"] += statistics.new_tokens
            for name in ("vision_seconds", "prefill_seconds", "decode_seconds"):
                earlier = self._seconds.get(f"{name}_total", 0.0)
                self._seconds[f"{name}_total"] = earlier + getattr(statistics, name)

    def text(self, waiting: int, running: int) -> str:
        """All metrics, with the state of the queues."""
        with self._lock:
            values = {**self._sums, **self._seconds}
            statuses = sorted(self._statuses.items())
        values |= {"requests_waiting": waiting, "requests_running": running}
        lines = []
        for name, (kind, text) in _HELP.items():
            lines += [f"# HELP {_PREFIX}{name} {text}", f"# TYPE {_PREFIX}{name} {kind}"]
            if name == "requests_total":
                lines += [f'{_PREFIX}{name}{{status="{code}"}} {n}' for code, n in statuses]
            else:
                lines.append(f"{_PREFIX}{name} {values.get(name, 0)}")
        return "\n".join([*lines, ""])
