"""Sessions of one model that keep the caches of recent conversations, within a budget of memory.

A prompt goes on from the cache that shares most of its beginning, pictures by digest. Where a
conversation branches, the cache is copied, so that both branches stay.
"""

from __future__ import annotations

from dataclasses import dataclass

from mobile_runtime.bundle import Manifest
from mobile_runtime.chat.conversation import PreparedPrompt
from mobile_runtime.session import Session

MOST = 16  # caches, however small they are: each request compares its prompt with all of them
# Computing this many positions again is cheaper than a copy of a cache; no picture has so few.
_CHEAP = 32
# Bytes per number of a cache while it is in use, by its form: the interpreter computes in float32.
_ITEM_BYTES = {"state": 4, "io": 4, "float32": 4, "int8": 1}
_EMBEDDING_BYTES = 4


@dataclass
class _Kept:
    session: Session
    asked: int = 0  # positions of its last prompt: what comes after them was its answer


class KeptSessions:
    """Up to `count` forks of `mother`, the least recently used one first. For one thread."""

    def __init__(self, mother: Session, count: int) -> None:
        self._mother, self._count = mother, count
        self._kept: list[_Kept] = []

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, prompt: PreparedPrompt) -> Session:
        """The session to answer `prompt` with, which then holds its conversation."""
        lengths = [kept.session.shared_length(prompt.keys) for kept in self._kept]
        shared = max(lengths, default=0)
        best = self._kept[lengths.index(shared)] if shared else None
        if best is not None and (best.asked - shared <= _CHEAP or self._count == 1):
            chosen = best
        else:
            source = best.session if best is not None and shared > _CHEAP else self._mother
            if len(self._kept) >= self._count:
                self._kept.remove(next(one for one in self._kept if one.session is not source))
            chosen = _Kept(source.fork())
        if chosen in self._kept:
            self._kept.remove(chosen)
        self._kept.append(chosen)
        chosen.asked = len(prompt.keys)
        return chosen.session

    def forget(self, session: Session) -> None:
        """Drop a session, after an error within it."""
        self._kept = [kept for kept in self._kept if kept.session is not session]


def session_bytes(manifest: Manifest) -> int:
    """Memory that a session takes at most: the cache of the whole context, and the embeddings of
    pictures that fill it."""
    shape, context = manifest.architecture, manifest.decoding.context_length
    row = 2 * shape.num_layers * shape.num_key_value_heads * shape.head_dim
    cache = row * _ITEM_BYTES[manifest.decoding.kv_cache]
    return context * (cache + shape.hidden_size * _EMBEDDING_BYTES)


def count_within(budget: int, manifest: Manifest) -> int:
    """How many sessions fit into `budget` bytes: 1 at least, `MOST` at most."""
    return max(1, min(MOST, budget // session_bytes(manifest)))
