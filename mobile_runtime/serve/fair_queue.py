"""The queue in front of a model: clients take turns, however many requests each has waiting."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What a queue holds."""

    @property
    def client(self) -> str:
        """Who asks: requests of one client are answered in the order in which they came."""


T = TypeVar("T", bound=Waiting)


class FairQueue(Generic[T]):
    """First come, first served among the requests of one client; round robin among clients. Safe
    for use by several threads."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._waiting.values()))

    def put(self, request: T) -> bool:
        """Add a request behind the others of its client; False after `close`. A client that has
        none waiting comes after all that have."""
        with self._changed:
            if self._closed:
                return False
            self._waiting.setdefault(request.client, deque()).append(request)
            self._changed.notify()
            return True

    def take(self) -> T | None:
        """Wait for the next request and take it out; None after `close`."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            client, own = next(iter(self._waiting.items()))
            request = own.popleft()
            self._waiting.move_to_end(client)
            self._drop_empty(client)
            return request

    def remove(self, request: T) -> bool:
        """Take out one that nobody waits for any more; whether it was still there."""
        with self._changed:
            own = self._waiting.get(request.client, deque())
            if request not in own:
                return False
            own.remove(request)
            self._drop_empty(request.client)
            return True

    def give_way(self, client: str) -> T | None:
        """Take out the last request of the client that has most of them, in favour of one more
        of `client`; None if `client` would then have as many as that one."""
        with self._changed:
            if not self._waiting:
                return None
            greedy = max(self._waiting, key=lambda name: len(self._waiting[name]))
            most = len(self._waiting[greedy])
            if most <= len(self._waiting.get(client, ())) + 1:
                return None
            request = self._waiting[greedy].pop()
            self._drop_empty(greedy)
            return request

    def close(self) -> list[T]:
        """Let `take` return None from here on; what was waiting."""
        with self._changed:
            left = [request for own in self._waiting.values() for request in own]
            self._waiting.clear()
            self._closed = True
            self._changed.notify_all()
            return left

    def _drop_empty(self, client: str) -> None:
        if not self._waiting[client]:
            del self._waiting[client]
