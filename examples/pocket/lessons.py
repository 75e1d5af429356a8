"""What is practised: the tasks of `validation.questions`, and pages for learning characters."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np

from validation.questions.canvas import random_size
from validation.questions.handwritten import draw_digit_page
from validation.questions.printed import draw_page
from validation.questions.question import Question, Turn
from validation.questions.shapes import draw_shape_page
from validation.questions.tasks import MIN_EM, TASKS, VIEW_AREA, Maker, Source, small_area

_SMALL_SHAPE, _LARGE_SHAPE = 8.0, 24.0  # radii in pixels of a view


def _page(rng: np.random.Generator, source: Source) -> Question:
    """A view full of characters, ten times as many as a question's picture has."""
    size = random_size(rng, small_area(rng), (0.6, 1.7))
    shown = math.sqrt(VIEW_AREA / (size[0] * size[1]))
    picture = draw_page(rng, size, (0.9 * MIN_EM / shown, 2.9 * MIN_EM / shown))
    return Question((picture,), (Turn("", ""),))


def _digit_page(rng: np.random.Generator, source: Source) -> Question:
    """A view full of handwritten digits."""
    size = random_size(rng, small_area(rng), (0.6, 1.7))
    collection = source.collections[int(rng.integers(len(source.collections)))]
    return Question((draw_digit_page(rng, size, collection),), (Turn("", ""),))


def _shape_page(rng: np.random.Generator, source: Source) -> Question:
    """A view full of shapes."""
    size = random_size(rng, small_area(rng), (0.6, 1.7))
    shown = math.sqrt(VIEW_AREA / (size[0] * size[1]))
    picture = draw_shape_page(rng, size, (_SMALL_SHAPE / shown, _LARGE_SHAPE / shown))
    return Question((picture,), (Turn("", ""),))


LESSONS: Mapping[str, Maker] = {
    **TASKS,
    "page": _page,
    "digit_page": _digit_page,
    "shape_page": _shape_page,
}


def draw_lesson(lesson: str, seed: int, index: int, source: Source) -> Question:
    """Lesson number `index`; seeds are odd, those of the fixed evaluation set even, so that no
    picture is in both."""
    rng = np.random.default_rng([2 * seed + 1, zlib.crc32(lesson.encode()), index])
    return LESSONS[lesson](rng, source)
