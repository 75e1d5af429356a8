"""Guesses of the next tokens, looked up in what was read and said; checked many at a time.

A model that copies says again what stands earlier in the text (prompt look-up decoding: Saxena,
2023). Guessed tokens are run together with the newest one, which costs less than one by one, and
only those that the model itself chooses are kept. It knows neither the model nor the text.

Whether guessing pays depends on the model and on the text, so both are watched. What a run of
guesses costs is measured in steps of one token. How good guesses are costs nothing to know: the
place that is being copied also predicts tokens that are computed one by one. Guesses are run only
after it was right several times in a row, and after a run that lost time more often each time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_GRAM = 3  # tokens that a place must have in common with the end of the text
_PROOF = 6  # right predictions in a row before guesses are run
_FIRST, _LONGEST = 4, 16  # guesses in a run
_OLD = 0.8  # weight of what was measured before


class PromptLookup:
    """The text of one answer, prompt included, and the guesses that wait to be confirmed.

    `drafted` and `accepted` count guesses that were run, and those that the model chose as well.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        """`prompt` holds token ids; a negative one stands for what is no token."""
        self.drafted = self.accepted = 0
        self._text: list[int] = []
        self._last: dict[tuple[int, ...], int] = {}  # the place after each n-gram's last occurrence
        self._source: int | None = None  # the place that is being copied
        self._right = 0  # tokens in a row that it predicted
        self._proof, self._length = _PROOF, _FIRST
        self._seconds: dict[int, float] = {}  # that a run of so many tokens takes
        self._waiting: list[tuple[int, np.ndarray]] = []
        self._cost = 0.0  # steps that the last run cost
        self._gained = 0  # steps that it has saved so far
        for token in prompt:
            self._push(token)

    def take(self, token: int) -> np.ndarray | None:
        """Add the token that was chosen. Returns the logits after it if it is the next guess;
        otherwise the rest of the guesses is void."""
        self._push(token)
        if not self._waiting:
            return None
        guess, logits = self._waiting.pop(0)
        if guess == token:
            self._gained += 1
            self.accepted += 1
        if guess != token or not self._waiting:
            self._judge(complete=guess == token)
        return logits if guess == token else None

    def guess(self, room: int) -> list[int]:
        """Tokens, at most `room`, to be run after the newest one; none where that would not pay."""
        if self._source is None or self._right < self._proof or 1 not in self._seconds:
            return []
        guesses = self._text[self._source : self._source + min(room, self._length)]
        return guesses[: guesses.index(-1)] if -1 in guesses else guesses

    def keep(self, guesses: Sequence[int], logits: np.ndarray, seconds: float) -> None:
        """Note what a run took, and the logits (1 + n, V) after the newest token and after each of
        the n guesses."""
        count = 1 + len(guesses)
        mixed = _OLD * self._seconds.get(count, seconds) + (1 - _OLD) * seconds
        self._seconds[count] = min(mixed, seconds)  # the machine may do something else meanwhile
        if guesses:
            self.drafted += len(guesses)
            self._waiting = list(zip(guesses, logits[1:], strict=True))
            self._cost, self._gained = self._seconds[count] / self._seconds[1], 1

    def _push(self, token: int) -> None:
        text = self._text
        text.append(token)
        if self._source is not None and text[self._source] == token:
            self._source, self._right = self._source + 1, self._right + 1
        else:
            self._source, self._right = None, 0
        if len(text) >= _GRAM:
            gram = tuple(text[-_GRAM:])
            if self._source is None:
                self._source = self._last.get(gram)
            self._last[gram] = len(text)

    def _judge(self, complete: bool) -> None:
        """After a run: ask for less proof if it saved time, and for more, and all of it anew, if it
        lost some. Runs grow while every guess is right: longer ones may pay where these do not."""
        grows = complete and self._length < _LONGEST
        self._waiting, self._length = [], min(_LONGEST, 2 * self._length) if complete else _FIRST
        if self._gained > self._cost:
            self._proof = max(_PROOF, self._proof // 2)
        elif not grows:
            self._proof, self._right = 2 * self._proof, 0
