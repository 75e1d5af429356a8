"""How much a server takes at once, and how long it works on one request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bytes of a body, requests that wait (those that are still being sent included), seconds from
    a request's arrival to the end of its answer, and seconds in which a body has to arrive."""

    body_bytes: int = 32_000_000
    waiting: int = 32
    request_seconds: float = 600.0
    body_seconds: float = 60.0
