"""What is practised: the tasks of `validation.questions`, and pages for learning characters."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from validation.questions.canvas import in_view, random_size
from validation.questions.handwritten import draw_digit_page
from validation.questions.printed import draw_page
from validation.questions.question import Question, Turn
from validation.questions.shapes import RADII, draw_shape_page
from validation.questions.tasks import MAX_EM, MIN_EM, TASKS, Maker, Source, small_area

_RATIOS = (0.6, 4.0)  # width / height, as of the questions' pictures


def _page(rng: np.random.Generator, source: Source) -> Question:
    """A view full of characters, ten times as many as a question's picture has."""
    size = random_size(rng, small_area(rng), _RATIOS)
    page = draw_page(rng, size, in_view(size, 0.95 * MIN_EM, 1.05 * MAX_EM))
    return Question((page,), (Turn("", ""),))


def _digit_page(rng: np.random.Generator, source: Source) -> Question:
    """A view full of handwritten digits."""
    size = random_size(rng, small_area(rng), _RATIOS)
    collection = source.collections[int(rng.integers(len(source.collections)))]
    return Question((draw_digit_page(rng, size, collection),), (Turn("", ""),))


def _shape_page(rng: np.random.Generator, source: Source) -> Question:
    """A view full of shapes."""
    size = random_size(rng, small_area(rng), _RATIOS)
    page = draw_shape_page(rng, size, in_view(size, 0.9 * RADII[0], 1.1 * RADII[1]))
    return Question((page,), (Turn("", ""),))


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
