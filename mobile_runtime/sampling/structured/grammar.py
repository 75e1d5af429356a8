"""Grammars over bytes: networks of states whose edges read a byte, call a rule, or read nothing.

A rule is a part of the network with one state in which it begins and one in which it ends. Paths
are added between two states: `grammar.literal(a, b, b"null")` lets `null` lead from a to b. No edge
leaves the end of a rule, so that a machine may go back to the caller there. It knows no JSON.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mobile_runtime.errors import InputError

MOST_STATES = 200_000  # a machine's memory: about 100 bytes each
_SURROGATES = (0xD800, 0xDFFF)
LAST_CHARACTER = 0x10FFFF
# Code points up to here take 1, 2, 3 and 4 bytes in UTF-8 (RFC 3629).
_LAST_OF_LENGTH = (0x7F, 0x7FF, 0xFFFF, LAST_CHARACTER)

Ranges = Sequence[tuple[int, int]]
Cost = tuple[int, int]  # bytes, calls inside one another


class SchemaError(InputError):
    """A schema that answers cannot be held to."""


@dataclass(frozen=True)
class Rule:
    """The states in which a rule begins and ends."""

    start: int
    end: int


class Grammar:
    """The network. `room[state]`, where it is above 0, is the number of characters of a JSON string
    that may still be read there, whatever they are; `in_string` are the states that read nothing
    else before the string ends, escapes left out."""

    def __init__(self) -> None:
        self.bytes: list[list[tuple[int, int, int]]] = []  # first byte, last byte, target
        self.calls: list[list[tuple[Rule, int]]] = []  # rule, the state after it
        self.empty: list[list[int]] = []  # targets
        self.room: dict[int, int] = {}
        self.in_string: set[int] = set()
        self.ends: set[int] = set()

    def state(self) -> int:
        """Add a state. Raises `SchemaError` if there are too many."""
        if len(self.bytes) >= MOST_STATES:
            raise SchemaError(
                f"the schema needs more than {MOST_STATES:,} states; lower its maxLength, maxItems "
                "or the number of its values."
            )
        self.bytes.append([])
        self.calls.append([])
        self.empty.append([])
        return len(self.bytes) - 1

    def rule(self) -> Rule:
        """Add a rule that reads nothing yet."""
        rule = Rule(self.state(), self.state())
        self.ends.add(rule.end)
        return rule

    def skip(self, a: int, b: int) -> None:
        """Nothing leads from a to b."""
        self.empty[a].append(b)

    def byte(self, a: int, b: int, first: int, last: int | None = None) -> None:
        """A byte of first to last leads from a to b."""
        self.bytes[a].append((first, first if last is None else last, b))

    def call(self, a: int, b: int, rule: Rule) -> None:
        """What the rule reads leads from a to b."""
        self.calls[a].append((rule, b))

    def literal(self, a: int, b: int, text: bytes) -> None:
        """`text`, one byte or more, leads from a to b."""
        for byte in text[:-1]:
            after = self.state()
            self.byte(a, after, byte)
            a = after
        self.byte(a, b, text[-1])

    def optional(self, a: int, b: int, text: bytes) -> None:
        """`text` or nothing leads from a to b."""
        self.literal(a, b, text)
        self.skip(a, b)

    def characters(self, a: int, b: int, ranges: Ranges) -> None:
        """A character of the ranges of code points, in UTF-8, leads from a to b."""
        for first, last in ranges:
            for sequence in utf8_sequences(first, last):
                state = a
                for low, high in sequence[:-1]:
                    after = self.state()
                    self.byte(state, after, low, high)
                    state = after
                self.byte(state, b, *sequence[-1])

    def costs(self) -> list[Cost | None]:
        """The cost of the shortest text from each state to the end of its rule: its bytes, and of
        equal ones the fewest calls inside one another. None where there is no way. Knuth's
        generalisation of Dijkstra's algorithm (1977)."""
        found: list[Cost | None] = [None] * len(self.bytes)
        before = self._sources()
        waiting = [((0, 0), end) for end in sorted(self.ends)]
        while waiting:
            cost, state = heapq.heappop(waiting)
            if found[state] is not None:
                continue
            found[state] = cost
            for source, length in before.plain[state]:
                heapq.heappush(waiting, ((cost[0] + length, cost[1]), source))
            for source, start, after in before.calls[state]:
                rule, rest = found[start], found[after]
                if rule is not None and rest is not None:
                    both = rule[0] + rest[0], max(rule[1] + 1, rest[1])
                    heapq.heappush(waiting, (both, source))
        return found

    def _sources(self) -> _Sources:
        sources = _Sources([[] for _ in self.bytes], [[] for _ in self.bytes])
        for a in range(len(self.bytes)):
            for target in {target for _, _, target in self.bytes[a]}:
                sources.plain[target].append((a, 1))
            for target in self.empty[a]:
                sources.plain[target].append((a, 0))
            for rule, after in self.calls[a]:
                sources.calls[rule.start].append((a, rule.start, after))
                sources.calls[after].append((a, rule.start, after))
        return sources


@dataclass
class _Sources:
    """Of each state: the states that lead there with their bytes, and calls that it takes part
    in."""

    plain: list[list[tuple[int, int]]]
    calls: list[list[tuple[int, int, int]]]


def complement(points: Iterable[int], ranges: Ranges) -> list[tuple[int, int]]:
    """The ranges of code points without the given ones."""
    left = list(ranges)
    for point in points:
        cut: list[tuple[int, int]] = []
        for first, last in left:
            if first <= point <= last:
                cut += [(first, point - 1), (point + 1, last)]
            else:
                cut.append((first, last))
        left = [(first, last) for first, last in cut if first <= last]
    return left


def utf8_sequences(first: int, last: int) -> list[list[tuple[int, int]]]:
    """Sequences of ranges of bytes that together are the UTF-8 of all characters from `first` to
    `last`, surrogates left out."""
    low, high = _SURROGATES
    if first <= high and last >= low:
        parts = [(first, low - 1), (high + 1, last)]
        return [s for a, b in parts if a <= b for s in utf8_sequences(a, b)]
    for edge in _LAST_OF_LENGTH:
        if first <= edge < last:
            return utf8_sequences(first, edge) + utf8_sequences(edge + 1, last)
    for bits in (6, 12, 18):  # where the bytes after the first differ, whole blocks of them only
        mask = (1 << bits) - 1
        if first & ~mask != last & ~mask and first > 0x7F:
            if first & mask:
                return utf8_sequences(first, first | mask) + utf8_sequences(
                    (first | mask) + 1, last
                )
            if last & mask != mask:
                return utf8_sequences(first, (last & ~mask) - 1) + utf8_sequences(
                    last & ~mask, last
                )
    return [list(zip(chr(first).encode(), chr(last).encode(), strict=True))]
