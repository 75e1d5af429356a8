"""JSON strings, keys and numbers as paths of a grammar.

Strings hold whole characters: UTF-8 is never broken, and `\\u` never writes half a character (a
surrogate), so that every reader takes them. Numbers have no exponent and at most 15 digits, which
a double holds exactly; with bounds, at most 6 of them after the point.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cached_property

from mobile_runtime.sampling.structured.grammar import (
    LAST_CHARACTER,
    Grammar,
    Rule,
    SchemaError,
    complement,
)

MOST_REPEATS = 65_536  # of a string's characters and an array's items that are counted
MOST_DIGITS, MOST_PLACES = 15, 6
LARGEST = 10**MOST_DIGITS - 1
UNBOUNDED = 1 << 30  # characters; more than any token has
# What a string holds as it is: all but control characters, the quote and the backslash (RFC 8259).
PLAIN = complement((0x22, 0x5C), [(0x20, LAST_CHARACTER)])
_QUOTE = 0x22
_ESCAPED = b'"\\/bfnrt'
_HEX = ((0x30, 0x39), (0x41, 0x46), (0x61, 0x66))


class Texts:
    """Rules that all strings of a grammar share."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar

    @cached_property
    def _plain(self) -> Rule:
        grammar = self._grammar
        first = len(grammar.bytes)
        rule = grammar.rule()
        grammar.characters(rule.start, rule.end, PLAIN)
        grammar.in_string.update(range(first, len(grammar.bytes)))
        return rule

    @cached_property
    def _character(self) -> Rule:
        """A character of a string, as it is or escaped."""
        grammar = self._grammar
        rule, escape = grammar.rule(), grammar.state()
        grammar.in_string |= {rule.start, rule.end}
        grammar.call(rule.start, rule.end, self._plain)
        grammar.byte(rule.start, escape, 0x5C)
        for letter in _ESCAPED:
            grammar.byte(escape, rule.end, letter)
        first, second, third, fourth = (grammar.state() for _ in range(4))
        grammar.byte(escape, first, ord("u"))
        after_d = grammar.state()  # D8 to DF begin surrogates
        for letter in b"dD":
            grammar.byte(first, after_d, letter)
        grammar.byte(after_d, third, 0x30, 0x37)
        for low, high in ((0x30, 0x39), (0x41, 0x43), (0x45, 0x46), (0x61, 0x63), (0x65, 0x66)):
            grammar.byte(first, second, low, high)
        for a, b in ((second, third), (third, fourth), (fourth, rule.end)):
            for low, high in _HEX:
                grammar.byte(a, b, low, high)
        return rule

    def string(self, a: int, b: int, least: int = 0, most: int | None = None) -> None:
        """A string of `least` to `most` characters leads from a to b."""
        grammar = self._grammar
        state = grammar.state()
        grammar.byte(a, state, _QUOTE)
        for count in range(least if most is None else most):
            grammar.room[state] = UNBOUNDED if most is None else most - count
            if count >= least:
                grammar.byte(state, b, _QUOTE)
            after = grammar.state()
            grammar.call(state, after, self._character)
            grammar.in_string.add(state)
            state = after
        grammar.in_string.add(state)
        grammar.byte(state, b, _QUOTE)
        if most is None:
            grammar.room[state] = UNBOUNDED
            grammar.call(state, state, self._character)

    def other_key(self, a: int, b: int, taken: Collection[str]) -> None:
        """A key without escapes that is none of `taken` leads from a to b."""
        grammar = self._grammar
        free, root = grammar.state(), grammar.state()
        grammar.room[free] = UNBOUNDED
        grammar.in_string.add(free)
        grammar.call(free, free, self._plain)
        grammar.byte(free, b, _QUOTE)
        grammar.byte(a, root, _QUOTE)
        nodes, after = {"": root}, {"": list[int]()}
        keys = {key for key in taken if len(json.dumps(key, ensure_ascii=False)) == len(key) + 2}
        for prefix in sorted({key[:n] for key in keys for n in range(1, len(key) + 1)}):
            nodes[prefix], after[prefix] = grammar.state(), []
            point = ord(prefix[-1])
            after[prefix[:-1]].append(point)
            grammar.characters(nodes[prefix[:-1]], nodes[prefix], [(point, point)])
        for prefix, state in nodes.items():
            grammar.characters(state, free, complement(after[prefix], PLAIN))
            if prefix not in keys:
                grammar.byte(state, b, _QUOTE)


def any_number(grammar: Grammar, a: int, b: int, whole: bool) -> None:
    """A number leads from a to b, a whole one if asked for."""
    unsigned = grammar.state()
    grammar.skip(a, unsigned)
    grammar.byte(a, unsigned, ord("-"))
    places = [b]  # places[n]: up to n digits may follow
    for _ in range(1, MOST_DIGITS):
        state = grammar.state()
        grammar.byte(state, places[-1], 0x30, 0x39)
        grammar.skip(state, b)
        places.append(state)
    state = unsigned
    for count in range(1, MOST_DIGITS + 1):
        after = grammar.state()
        grammar.byte(state, after, 0x31 if count == 1 else 0x30, 0x39)
        _end_whole(grammar, after, b, None if whole else places[: MOST_DIGITS - count + 1])
        state = after
    zero = grammar.state()
    grammar.byte(unsigned, zero, 0x30)
    _end_whole(grammar, zero, b, None if whole else places)


def _end_whole(grammar: Grammar, state: int, b: int, places: list[int] | None) -> None:
    """After the digits before the point: the number ends, or a point and more digits follow."""
    grammar.skip(state, b)
    if places is not None and len(places) > 1:
        first, point = places[-2], grammar.state()
        grammar.byte(state, point, ord("."))
        grammar.byte(point, first, 0x30, 0x39)


def bounded_number(
    grammar: Grammar, a: int, b: int, lows: Sequence[Bound], highs: Sequence[Bound], whole: bool
) -> bool:
    """A number between all the bounds leads from a to b. Returns whether there is one."""
    found = False
    for places in range(0, 1 if whole else MOST_PLACES + 1):
        least = max([-LARGEST, *(low.least(places) for low in lows)])
        most = min([LARGEST, *(high.most(places) for high in highs)])
        if least <= most:
            found = True
            if least < 0:
                minus = grammar.state()
                grammar.byte(a, minus, ord("-"))
                _digits_between(grammar, minus, b, (max(1, -most), -least), places)
            if most >= 0:
                _digits_between(grammar, a, b, (max(0, least), most), places)
    return found


class Bound:
    """A bound of a schema. Raises `SchemaError` for one that has no exact place among doubles."""

    def __init__(self, value: int | float, excluded: bool, name: str) -> None:
        self._value, self._excluded = Decimal(repr(value)), excluded
        if abs(self._value) > LARGEST:
            raise SchemaError(f"{name} is {value}; give one of at most {MOST_DIGITS} digits.")

    def least(self, places: int) -> int:
        """The least number allowed, in units of the last of `places` digits after the point."""
        scaled = self._value.scaleb(places)
        least = int(scaled.to_integral_value(ROUND_CEILING))
        return least + (self._excluded and least == scaled)

    def most(self, places: int) -> int:
        """The largest number allowed, likewise."""
        scaled = self._value.scaleb(places)
        most = int(scaled.to_integral_value(ROUND_FLOOR))
        return most - (self._excluded and most == scaled)


def _digits_between(grammar: Grammar, a: int, b: int, bounds: tuple[int, int], places: int) -> None:
    """Numbers between two that are not negative, in units of the last of `places` digits."""
    low, high = bounds
    for length in range(max(len(str(low)), places + 1), max(len(str(high)), places + 1) + 1):
        first = 0 if length == places + 1 else 10 ** (length - 1)
        least, most = max(low, first), min(high, 10**length - 1)
        if least <= most:
            digits = str(least).zfill(length), str(most).zfill(length)
            _same_length(grammar, a, b, digits, places)


def _same_length(grammar: Grammar, a: int, b: int, bounds: tuple[str, str], places: int) -> None:
    """Digits between two numbers of equal length, with a point before the last `places`."""
    low, high = bounds
    if places and len(low) == places:
        point = grammar.state()
        grammar.byte(a, point, ord("."))
        a = point
    if len(low) == 1:
        grammar.byte(a, b, ord(low), ord(high))
        return

    def go_on(first: int, last: int, rest: tuple[str, str]) -> None:
        after = grammar.state()
        grammar.byte(a, after, first, last)
        _same_length(grammar, after, b, rest, places)

    nines, zeros = "9" * (len(low) - 1), "0" * (len(low) - 1)
    first, last = ord(low[0]), ord(high[0])
    if first == last:
        go_on(first, last, (low[1:], high[1:]))
        return
    if low[1:] != zeros:
        go_on(first, first, (low[1:], nines))
        first += 1
    if high[1:] != nines:
        go_on(last, last, (zeros, high[1:]))
        last -= 1
    if first <= last:
        go_on(first, last, (zeros, nines))
