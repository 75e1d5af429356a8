"""Runs a grammar over bytes: from a state, where a byte leads, and the shortest text that ends it.

A state is the set of all places in the grammar that what was read so far may be at, each with the
calls that it is inside of. States are made when they are first reached, and kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from mobile_runtime.sampling.structured.grammar import Grammar, Rule, SchemaError

DEEPEST = 200  # calls inside one another, so arrays and objects too; JSON readers take 500
_MOST_KEPT = 50_000  # states
_MOST_PLACES = 5_000  # of one state


@dataclass(frozen=True, eq=False)
class _Stack:
    """The state to go on in after a call, and the calls around it; each exists once."""

    back: int
    around: _Stack | None
    depth: int


_Place = tuple[int, _Stack | None]  # a state of the grammar, the calls around it


@dataclass(eq=False)
class State:
    """Where a text may be. `complete`: it may end here. `room`: so many more characters of a string
    may follow, whatever they are; `in_string`: and no more without an escape before its end.
    `allowed` is for whoever computes tokens."""

    places: tuple[_Place, ...]
    complete: bool
    room: int
    in_string: bool
    steps: dict[int, State | None] = field(default_factory=dict)
    allowed: np.ndarray | None = None

    @property
    def over(self) -> bool:
        """Whether nothing may follow."""
        return not self.places


class Machine:
    """A grammar that starts at a rule. Raises `SchemaError` if a part of it has no finite text, or
    begins with itself."""

    def __init__(self, grammar: Grammar, start: Rule) -> None:
        self._grammar, self._start = grammar, start
        _refuse_left_recursion(grammar)
        costs = grammar.costs()
        called = {rule.start for calls in grammar.calls for rule, _ in calls} | {start.start}
        if any(costs[state] is None for state in called):
            raise SchemaError("a part of the schema contains itself without end: no value fits it.")
        self._costs = [cost if cost is not None else (0, DEEPEST + 1) for cost in costs]
        self._stacks: dict[tuple[int, _Stack | None], _Stack] = {}
        self._states: dict[tuple[frozenset[_Place], bool], State] = {}
        if not self.start().places:
            raise SchemaError("the values that fit the schema are nested too deeply.")

    def start(self) -> State:
        """Where nothing was read."""
        return self._state([(self._start.start, None)])

    def step(self, state: State, byte: int) -> State | None:
        """Where a byte leads; None if it may not follow."""
        try:
            return state.steps[byte]
        except KeyError:
            pass
        reached = [
            (target, stack)
            for place, stack in state.places
            for low, high, target in self._grammar.bytes[place]
            if low <= byte <= high
        ]
        found = state.steps[byte] = self._state(reached) if reached else None
        return found

    def read(self, state: State, text: bytes) -> State | None:
        """Where a text leads."""
        at: State | None = state
        for byte in text:
            if at is None:
                return None
            at = self.step(at, byte)
        return at

    def shortest_length(self, state: State) -> int:
        """Bytes of the shortest text that ends here."""
        return 0 if state.complete else min(map(self._length, state.places))

    def shortest(self, state: State) -> bytes:
        """The shortest text that ends here; of several, the first in the order of bytes."""
        text = bytearray()
        while not state.complete:
            length = self.shortest_length(state)
            for byte in sorted({low for low in self._first_bytes(state)}):
                after = self.step(state, byte)
                if after is not None and self.shortest_length(after) == length - 1:
                    text.append(byte)
                    state = after
                    break
        return bytes(text)

    def _first_bytes(self, state: State) -> Iterable[int]:
        return (low for place, _ in state.places for low, _, _ in self._grammar.bytes[place])

    def _length(self, place: _Place) -> int:
        state, stack = place
        total = self._costs[state][0]
        while stack is not None:
            total, stack = total + self._costs[stack.back][0], stack.around
        return total

    def _state(self, reached: Iterable[_Place]) -> State:
        """The state of all places that the reached ones lead to without a byte."""
        grammar = self._grammar
        left = [place for place in reached if self._fits(*place)]
        seen, room, complete = set(left), 0, False
        while left:
            state, stack = left.pop()
            room = max(room, grammar.room.get(state, 0))
            after: list[_Place] = [(target, stack) for target in grammar.empty[state]]
            if state in grammar.ends:
                if stack is None:
                    complete = True
                else:
                    after.append((stack.back, stack.around))
            after += [
                (rule.start, self._stack(back, stack))
                for rule, back in grammar.calls[state]
                if self._fits(back, stack)
            ]
            for place in after:
                if place not in seen and self._fits(*place):
                    seen.add(place)
                    left.append(place)
            if len(seen) > _MOST_PLACES:
                raise SchemaError("the schema can be read in too many ways; give it less anyOf.")
        places = frozenset(place for place in seen if grammar.bytes[place[0]])
        found = self._states.get((places, complete))
        if found is None:
            if len(self._states) >= _MOST_KEPT:
                self._forget()
            inside = bool(places) and all(state in grammar.in_string for state, _ in places)
            found = State(tuple(places), complete, room, inside)
            self._states[places, complete] = found
        return found

    def _fits(self, state: int, stack: _Stack | None) -> bool:
        """Whether the shortest text from there is not nested too deeply: no place is a dead end."""
        return (0 if stack is None else stack.depth) + self._costs[state][1] <= DEEPEST

    def _stack(self, back: int, around: _Stack | None) -> _Stack:
        found = self._stacks.get((back, around))
        if found is None:
            depth = 1 if around is None else around.depth + 1
            found = self._stacks[back, around] = _Stack(back, around, depth)
        return found

    def _forget(self) -> None:
        """Answers that are being computed keep the state that they are in."""
        for state in self._states.values():
            state.steps, state.allowed = {}, None
        self._states, self._stacks = {}, {}


def _refuse_left_recursion(grammar: Grammar) -> None:
    """Raises `SchemaError` if a rule calls itself before it reads a byte."""
    first: dict[int, list[int]] = {}  # a rule's start -> those of the rules that it begins with
    for start in {rule.start for calls in grammar.calls for rule, _ in calls}:
        left, seen = [start], {start}
        while left:
            for target in grammar.empty[left.pop()]:
                if target not in seen:
                    seen.add(target)
                    left.append(target)
        first[start] = [rule.start for state in seen for rule, _ in grammar.calls[state]]
    done: set[int] = set()
    for root in first:
        path: list[int] = []
        left = [root]
        while left:
            start = left.pop()
            if start < 0:
                done.add(path.pop())
            elif start in path:
                raise SchemaError("a part of the schema refers to itself and to nothing else.")
            elif start not in done:
                path.append(start)
                left += [-1, *first[start]]
