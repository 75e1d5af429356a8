"""The rows of the table of answers: one per task, and controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from validation.questions.handwritten import COLLECTIONS
from validation.questions.question import Question
from validation.questions.tasks import TASKS, DigitSource, draw_question

SEED = 2026  # even: training draws from odd ones
ITEMS = 300
_HELD_OUT = DigitSource(held_out=True)


@dataclass(frozen=True)
class Row:
    """A row of the table. `shuffled` is a control: wrong temporal ids must give wrong answers."""

    task: str
    source: DigitSource = _HELD_OUT
    shuffled: bool = False


ROWS: Mapping[str, Row] = {
    **{task: Row(task) for task in TASKS},
    **{
        f"handwritten_digits, {name}": Row(
            "handwritten_digits", replace(_HELD_OUT, collections=(name,))
        )
        for name in COLLECTIONS
    },
    **{
        f"{task}, times shuffled": Row(task, shuffled=True)
        for task in TASKS
        if task.startswith("video")
    },
}


def draw_item(name: str, index: int) -> Question:
    """Item number `index` of the row called `name`."""
    row = ROWS[name]
    question = draw_question(row.task, SEED, index, row.source)
    if not row.shuffled:
        return question
    assert question.temporal_ids is not None
    return replace(question, temporal_ids=tuple(map(_shuffle, question.temporal_ids)))


def _shuffle(times: tuple[int, ...]) -> tuple[int, ...]:
    """The same times in another order, always the same one."""
    rng = np.random.default_rng([SEED, *times])
    while True:
        shuffled = tuple(int(time) for time in rng.permutation(times))
        if shuffled != times:
            return shuffled
