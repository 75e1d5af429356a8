"""Holds an answer to a schema: which token comes next, and when the answer is at its end.

A token that does not fit gets the score −∞, and the sampler chooses from the others. With thoughts,
they come first and are free, but for tokens that end the answer; the schema begins after the token
that ends them, and as published two newlines may stand between.

An answer is always whole. Its tokens are limited, and once what is left just suffices for the
shortest way to end it, that is taken: such an answer is valid as well, but not what the model would
have said. If the shortest answer does not fit the limit, it is refused beforehand.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_runtime.sampling.sampling import Sampler
from mobile_runtime.sampling.structured.grammar import SchemaError
from mobile_runtime.sampling.structured.machine import Machine, State
from mobile_runtime.sampling.structured.schema import compile_schema
from mobile_runtime.sampling.structured.vocabulary import Vocabulary

_AFTER_THOUGHTS = b"\n\n"


@dataclass(frozen=True)
class Schema:
    """A compiled schema, and the tokens that answers are made of; many answers share it. One of
    `stops` ends an answer. `thoughts_end` is the token that ends thoughts, None without them."""

    machine: Machine
    vocabulary: Vocabulary
    stops: tuple[int, ...]
    thoughts_end: int | None = None

    @classmethod
    def compiled(
        cls,
        schema: object,
        vocabulary: Vocabulary,
        stops: Collection[int],
        thoughts_end: int | None = None,
    ) -> Schema:
        """Raises `SchemaError` for a schema that answers cannot be held to."""
        grammar, rule = compile_schema(schema)
        if thoughts_end is not None:
            after, value = grammar.rule(), grammar.state()
            grammar.optional(after.start, value, _AFTER_THOUGHTS)
            grammar.call(value, after.end, rule)
            rule = after
        return cls(Machine(grammar, rule), vocabulary, tuple(sorted(stops)), thoughts_end)

    def begin(self, room: int) -> State | None:
        """Where an answer begins, None for thoughts. Raises `SchemaError` if one of `room` tokens
        cannot be whole."""
        state = self.machine.start() if self.thoughts_end is None else None
        needed = len(self.ending(state))
        if needed > room:
            raise SchemaError(
                f"there is room for {room} tokens, and the shortest answer that fits the schema "
                f"has {needed}; allow more tokens, or shorten the prompt."
            )
        return state

    def ending(self, state: State | None) -> list[int]:
        """Tokens of the shortest text that ends an answer from there, None for its thoughts."""
        if state is None:
            assert self.thoughts_end is not None
            return [self.thoughts_end, *self.ending(self.machine.start())]
        return self.vocabulary.spelled(self.machine.shortest(state))

    def ends_within(self, state: State | None, left: int) -> bool:
        """Whether an answer can end from there with `left` more tokens."""
        if state is not None and self.machine.shortest_length(state) <= left:
            return True  # no token has less than a byte
        return len(self.ending(state)) <= left


class Constraint:
    """One answer of at most `room` tokens; raises as `Schema.begin`."""

    def __init__(self, schema: Schema, room: int) -> None:
        self._schema, self._room = schema, room
        self._state = schema.begin(room)
        self._ending: list[int] | None = None

    @property
    def is_over(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        return self._ending == [] or (self._state is not None and self._state.over)

    @property
    def was_shortened(self) -> bool:
        """Whether the limit ended the answer, not the model."""
        return self._ending is not None

    def next_token(
        self, sampler: Sampler, logits: NDArray[np.float32], generated: Sequence[int]
    ) -> int:
        """Choose as `Sampler.next_token` does, among the tokens that fit, and go on from there; a
        stop token ends the answer."""
        schema = self._schema
        if self._ending is None:
            token = self._chosen(sampler, logits, generated)
            if token in schema.stops:
                return token
            after = self._after(token)
            if schema.ends_within(after, self._room - len(generated) - 1):
                self._state = after
                return token
            self._ending = schema.ending(self._state)
        return self._ending.pop(0) if self._ending else schema.stops[0]

    def _chosen(
        self, sampler: Sampler, logits: NDArray[np.float32], generated: Sequence[int]
    ) -> int:
        if sampler.temperature == 0:  # the best token often fits: then the others do not matter
            token = sampler.next_token(logits, generated)
            if self._fits(token):
                return token
        return sampler.next_token(self._masked(logits), generated)

    def _fits(self, token: int) -> bool:
        if token in self._schema.stops:
            return self._state is not None and self._state.complete
        return self._state is None or self._after(token) is not None

    def _after(self, token: int) -> State | None:
        """Where a token leads; None for thoughts, or if it does not fit."""
        schema = self._schema
        if self._state is not None:
            return schema.vocabulary.read(schema.machine, self._state, token)
        return schema.machine.start() if token == schema.thoughts_end else None

    def _masked(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (V,) with −∞ for tokens that do not fit."""
        schema, stops = self._schema, list(self._schema.stops)
        if self._state is None:
            masked = logits.copy()
            masked[stops] = -np.inf
            return masked
        fits = schema.vocabulary.allowed(schema.machine, self._state)
        masked = np.full_like(logits, -np.inf)
        np.copyto(masked[: len(fits)], logits[: len(fits)], where=fits[: len(logits)])
        if self._state.complete:
            masked[stops] = logits[stops]
        return masked
