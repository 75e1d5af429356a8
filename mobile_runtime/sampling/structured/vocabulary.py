"""Which tokens may follow: bytes of a vocabulary against a machine that reads bytes.

Tokens are read in the order of their bytes, so that what several begin with is read once, and what
no token may begin with leaves out all of them. Inside a string most tokens are letters that always
fit: those are known beforehand.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobile_runtime.errors import InputError
from mobile_runtime.sampling.structured.machine import Machine, State

_NOT_PLAIN = 1 << 31  # more characters than a string ever has room for


class Vocabulary:
    """Tokens that write text. `texts[id]` is the bytes of a token, empty for one that writes none;
    logits may have more. Raises `InputError` if there is no token for a byte of ASCII or UTF-8:
    then an answer might not be able to go on."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._size = len(texts)
        order = sorted((text, token) for token, text in enumerate(texts) if text)
        self._tokens = np.array([token for _, token in order], dtype=np.int64)
        self._all = _Sorted([text for text, _ in order])
        self._texts = texts
        self._longest = max(map(len, texts), default=0)
        self._first = {text: token for text, token in reversed(order)}
        needed = [*range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF5)]
        if absent := [byte for byte in needed if bytes([byte]) not in self._first]:
            raise InputError(
                f"The tokenizer has no token for the byte {absent[0]:#04x}, so that answers cannot "
                "be held to a schema; use a bundle with a byte-level tokenizer."
            )
        self._plain = np.array([_characters(text) for text, _ in order], dtype=np.int64)
        special = np.flatnonzero(self._plain == _NOT_PLAIN)
        self._special, self._special_places = _Sorted([order[n][0] for n in special]), special
        self._longest_plain = int(self._plain[self._plain < _NOT_PLAIN].max(initial=0))

    def read(self, machine: Machine, state: State, token: int) -> State | None:
        """Where a token leads; None if it may not follow."""
        text = self._texts[token] if token < self._size else b""
        return machine.read(state, text) if text else None

    def allowed(self, machine: Machine, state: State) -> NDArray[np.bool_]:
        """Whether each token may follow; kept with the state."""
        if state.allowed is None:
            places = np.zeros(len(self._tokens), dtype=bool)
            if state.in_string or state.room >= self._longest_plain:
                places[:] = self._plain <= state.room
                places[self._special_places[self._special.fitting(machine, state)]] = True
            else:
                places[self._all.fitting(machine, state)] = True
            tokens = np.zeros(self._size, dtype=bool)
            tokens[self._tokens[places]] = True
            state.allowed = np.packbits(tokens)
        return np.unpackbits(state.allowed, count=self._size).view(np.bool_)

    def spelled(self, text: bytes) -> list[int]:
        """Tokens that write a text, the longest first wherever several fit; of tokens with equal
        bytes the first."""
        tokens: list[int] = []
        at = 0
        while at < len(text):
            lengths = range(min(self._longest, len(text) - at), 0, -1)
            length = next(n for n in lengths if text[at : at + n] in self._first)
            tokens.append(self._first[text[at : at + length]])
            at += length
        return tokens


class _Sorted:
    """Texts in the order of their bytes."""

    def __init__(self, texts: list[bytes]) -> None:
        self._texts = texts
        # Bytes that each text shares with the one before.
        pairs = zip([b"", *texts[:-1]], texts, strict=True)
        self._shared = [_shared(a, b) for a, b in pairs]

    def fitting(self, machine: Machine, state: State) -> list[int]:
        """Places of the texts that may follow."""
        texts, shared, step = self._texts, self._shared, machine.step
        found: list[int] = []
        path = [state]  # path[n]: after n bytes of the newest text
        at = 0
        while at < len(texts):
            text = texts[at]
            here = min(shared[at], len(path) - 1)
            del path[here + 1 :]
            for n in range(here, len(text)):
                after = step(path[n], text[n])
                if after is None:
                    at = self._after_prefix(text[: n + 1], at)
                    break
                path.append(after)
            else:
                found.append(at)
                at += 1
        return found

    def _after_prefix(self, prefix: bytes, at: int) -> int:
        """The place of the first text from `at` on that does not begin with `prefix`."""
        texts = self._texts
        if at + 1 < len(texts) and not texts[at + 1].startswith(prefix):
            return at + 1
        while prefix and prefix[-1] == 0xFF:
            prefix = prefix[:-1]
        if not prefix:
            return len(texts)
        return bisect_left(texts, prefix[:-1] + bytes([prefix[-1] + 1]), at)


def _shared(a: bytes, b: bytes) -> int:
    return next(
        (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _characters(text: bytes) -> int:
    """How many characters of a JSON string a text is, none of them escaped or broken."""
    if any(byte < 0x20 or byte in b'"\\' for byte in text):
        return _NOT_PLAIN
    try:
        return len(text.decode())
    except UnicodeDecodeError:
        return _NOT_PLAIN
