"""What is practised: the tasks of `validation.questions`, and pages for learning characters."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np

from validation.questions.canvas import random_size
from validation.questions.printed import draw_page
from validation.questions.question import Question, Turn
from validation.questions.tasks import MIN_EM, TASKS, VIEW_AREA, Maker, Source, small_area

PAGE = "page"


def _page(rng: np.random.Generator, source: Source) -> Question:
    """A view full of characters, ten times as many as a question's picture has."""
    size = random_size(rng, small_area(rng), (0.6, 1.7))
    shown = math.sqrt(VIEW_AREA / (size[0] * size[1]))
    picture = draw_page(rng, size, (MIN_EM / shown, 3.2 * MIN_EM / shown))
    return Question((picture,), (Turn("", ""),))


LESSONS: Mapping[str, Maker] = {**TASKS, PAGE: _page}


def draw_lesson(lesson: str, seed: int, index: int, source: Source) -> Question:
    """Lesson number `index`; seeds are odd, those of the fixed evaluation set even, so that no
    picture is in both."""
    rng = np.random.default_rng([2 * seed + 1, zlib.crc32(lesson.encode()), index])
    return LESSONS[lesson](rng, source)
