"""The text of an answer as it streams: thoughts apart from the answer, and sequences that end it.

What may be the beginning of a mark (`</think>`, a stop sequence) is held back until it is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

THINK_START, THINK_END = "<think>", "</think>"  # as the chat template writes them


@dataclass(frozen=True)
class Part:
    """A piece of text; `begin` and `end` count letters of the whole stream."""

    text: str
    is_thought: bool
    begin: int
    end: int


@dataclass
class AnswerText:
    """Takes pieces of a stream and gives parts of thoughts and of the answer. `thinking` says that
    the stream begins with thoughts; the answer ends before the first of `stops` in it."""

    thinking: bool
    stops: Sequence[str] = ()
    stopped: bool = field(init=False, default=False)
    _held: str = field(init=False, default="")
    _given: int = field(init=False, default=0)  # letters of the stream before what is held
    # Newlines around thoughts belong neither to them nor to the answer.
    _begun: bool = field(init=False, default=False)
    _leading: bool = field(init=False, default=False)

    def push(self, piece: str) -> list[Part]:
        """What is certain with this piece."""
        self._held += piece
        parts = self._thoughts(final=False) if self.thinking else []
        return parts if self.thinking else parts + self._answer(final=False)

    def flush(self) -> list[Part]:
        """The rest, at the end of the stream."""
        parts = self._thoughts(final=True) if self.thinking else []
        return parts if self.thinking else parts + self._answer(final=True)

    def _thoughts(self, final: bool) -> list[Part]:
        if not self._begun:
            head = f"{THINK_START}\n"
            if len(self._held) < len(head) and not final:
                return []
            self._drop(len(head) if self._held.startswith(head) else 0)
            self._begun = True
        end = self._held.find(THINK_END)
        if end < 0:
            held = 0 if final else _partial(self._held, (THINK_END,))
            certain = len(self._held[: len(self._held) - held].rstrip("\n"))
            return self._give(certain, is_thought=True)
        parts = self._give(len(self._held[:end].rstrip("\n")), is_thought=True)
        self._drop(self._held.find(THINK_END) + len(THINK_END))
        self.thinking, self._leading = False, True
        return parts

    def _answer(self, final: bool) -> list[Part]:
        if self.stopped:
            return []
        if self._leading:
            self._drop(len(self._held) - len(self._held.lstrip("\n")))
            self._leading = not self._held
        found = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._give(min(found), is_thought=False)
        held = 0 if final else _partial(self._held, self.stops)
        return self._give(len(self._held) - held, is_thought=False)

    def _give(self, length: int, is_thought: bool) -> list[Part]:
        text, begin = self._held[:length], self._given
        self._drop(length)
        return [Part(text, is_thought, begin, self._given)] if text else []

    def _drop(self, length: int) -> None:
        self._held = self._held[length:]
        self._given += length


def _partial(text: str, marks: Sequence[str]) -> int:
    """The length of the longest end of `text` that some mark begins with."""
    longest = min(len(text), max(map(len, marks), default=1) - 1)
    ends = (n for n in range(longest, 0, -1) if any(m.startswith(text[-n:]) for m in marks))
    return next(ends, 0)
