"""Examples at hand: drawing a picture costs a good part of learning from it, so each is shown a
few times before a new one takes its place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from examples.pocket.example import Example, make_example
from examples.pocket.lessons import draw_lesson
from examples.pocket.recolour import has_shapes, recolour
from mobile_runtime.conversation import ChatFormat
from validation.questions.tasks import Source

_CAPACITY = 1500
_FIRST = 400  # examples: with fewer at hand, as many are drawn as are shown


class Pool:
    """A reservoir of examples by task. `stream` tells the pools of parallel workers apart."""

    def __init__(self, chat_format: ChatFormat, seed: int, stream: int, source: Source) -> None:
        self._format, self._seed, self._stream, self._source = chat_format, seed, stream, source
        self._rng = np.random.default_rng([seed, stream])
        self._examples: dict[str, list[Example]] = {}
        self.drawn = 0

    def skip(self, drawn: int) -> None:
        """Continue after `drawn` examples, with new ones."""
        self.drawn = drawn
        self._rng = np.random.default_rng([self._seed, self._stream, drawn])

    def batch(
        self, size: int, tasks: Mapping[str, float], shown: float, recoloured: bool = False
    ) -> list[Example]:
        """Draw some new examples, then `size` of those at hand, tasks in the wanted proportion and
        each example `shown` times on average; `recoloured` shows those without shapes in other
        colours each time."""
        names, shares = list(tasks), np.array(list(tasks.values()))
        chosen = self._rng.choice(names, size=size, p=shares / shares.sum())
        for name in names:
            shelf = self._examples.setdefault(name, [])
            wanted = int((chosen == name).sum())
            missing = max(0, int(_FIRST * tasks[name] / shares.sum()) + 1 - len(shelf))
            new = min(wanted, missing) + self._rng.binomial(wanted, 1 / shown)
            for _ in range(max(new, int(not shelf))):
                self._add(name, shelf, int(_CAPACITY * tasks[name] / shares.sum()) + 1)
        picked = [self._pick(self._examples[name]) for name in chosen]
        if not recoloured:
            return picked
        return [e if has_shapes(e) else recolour(e, self._rng) for e in picked]

    def _add(self, task: str, shelf: list[Example], capacity: int) -> None:
        seed = 1000 * self._seed + self._stream
        question = draw_lesson(task, seed, self.drawn, self._source)
        self.drawn += 1
        example = make_example(question, self._format)
        if len(shelf) < capacity:
            shelf.append(example)
        else:
            shelf[int(self._rng.integers(len(shelf)))] = example

    def _pick(self, shelf: list[Example]) -> Example:
        return shelf[int(self._rng.integers(len(shelf)))]
