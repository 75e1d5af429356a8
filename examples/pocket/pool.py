"""Examples at hand: drawing a picture costs a good part of learning from it, so each is shown a
few times before a new one takes its place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from examples.pocket.example import Example, make_example
from examples.pocket.lessons import draw_lesson
from examples.pocket.options import Options
from export.calibration.chat_format import open_chat_format
from mobile_runtime.chat.conversation import ChatFormat
from validation.questions.tasks import DigitSource

_CAPACITY = 1500
_FIRST = 400  # examples: with fewer at hand, as many are drawn as are shown


def open_pool(options: Options, stream: int, drawn: int) -> Pool:
    """The pool of a run's worker number `stream`, whose checkpoint is there already, after `drawn`
    examples."""
    checkpoint = options.checkpoint
    chat_format = open_chat_format(checkpoint)
    pool = Pool(chat_format, options.seed, stream, DigitSource(collections=options.collections))
    if drawn:
        pool.skip(drawn)
    return pool


class Pool:
    """A reservoir of examples by task. `stream` tells the pools of parallel workers apart."""

    def __init__(
        self, chat_format: ChatFormat, seed: int, stream: int, source: DigitSource
    ) -> None:
        self._format, self._seed, self._stream, self._source = chat_format, seed, stream, source
        self._rng = np.random.default_rng([seed, stream])
        self._examples: dict[str, list[Example]] = {}
        self.drawn = 0

    def skip(self, drawn: int) -> None:
        """Continue after `drawn` examples, with new ones."""
        self.drawn = drawn
        self._rng = np.random.default_rng([self._seed, self._stream, drawn])

    def batch(self, size: int, tasks: Mapping[str, float], shown: float) -> list[Example]:
        """Draw some new examples, then `size` of those at hand, tasks in the wanted proportion and
        each example `shown` times on average."""
        chosen, whole = self._choose(size, tasks), sum(tasks.values())
        for name, share in tasks.items():
            shelf = self._examples.setdefault(name, [])
            wanted = int((chosen == name).sum())
            missing = max(0, int(_FIRST * share / whole) + 1 - len(shelf))
            new = min(wanted, missing) + self._rng.binomial(wanted, 1 / shown)
            for _ in range(max(new, int(not shelf))):
                self._add(name, shelf, int(_CAPACITY * share / whole) + 1)
        return [self._pick(self._examples[name]) for name in chosen]

    def fresh(self, size: int, tasks: Mapping[str, float]) -> list[Example]:
        """Only new examples, tasks in the wanted proportion."""
        return [self._draw(name) for name in self._choose(size, tasks)]

    def _choose(self, size: int, tasks: Mapping[str, float]) -> NDArray[np.str_]:
        shares = np.array(list(tasks.values()))
        return self._rng.choice(list(tasks), size=size, p=shares / shares.sum())

    def _draw(self, task: str) -> Example:
        seed = 1000 * self._seed + self._stream
        question = draw_lesson(task, seed, self.drawn, self._source)
        self.drawn += 1
        return make_example(question, self._format)

    def _add(self, task: str, shelf: list[Example], capacity: int) -> None:
        example = self._draw(task)
        if len(shelf) < capacity:
            shelf.append(example)
        else:
            shelf[int(self._rng.integers(len(shelf)))] = example

    def _pick(self, shelf: list[Example]) -> Example:
        return shelf[int(self._rng.integers(len(shelf)))]
