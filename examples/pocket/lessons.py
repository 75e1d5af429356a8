"""Lessons of the training: the tasks of `validation.questions`, pages for learning characters and
shapes, and what is hardest of a task by itself."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from validation.questions.canvas import in_view, random_size
from validation.questions.handwritten import draw_digit_page
from validation.questions.printed import draw_page
from validation.questions.question import Question, QuestionTurn
from validation.questions.shapes import COLOURS, RADII, SHAPES, draw_shape_page
from validation.questions.tasks import (
    MAX_EM,
    MIN_EM,
    TASKS,
    DigitSource,
    Maker,
    compare_texts,
    follow_ups,
    shape_turns,
    small_area,
)

_AGAIN = ("Spell it.", "Say it backwards.")
_RATIOS = (0.6, 4.0)  # width / height, as of the questions' pictures


def _page(rng: np.random.Generator, source: DigitSource) -> Question:
    """A view full of characters, ten times as many as a question's picture has."""
    size = random_size(rng, small_area(rng), _RATIOS)
    page = draw_page(rng, size, in_view(size, 0.95 * MIN_EM, 1.05 * MAX_EM))
    return Question((page,), (QuestionTurn("", ""),))


def _digit_page(rng: np.random.Generator, source: DigitSource) -> Question:
    """A view full of handwritten digits."""
    size = random_size(rng, small_area(rng), _RATIOS)
    collection = source.collections[int(rng.integers(len(source.collections)))]
    return Question((draw_digit_page(rng, size, collection),), (QuestionTurn("", ""),))


def _shape_page(rng: np.random.Generator, source: DigitSource) -> Question:
    """A view full of shapes."""
    size = random_size(rng, small_area(rng), _RATIOS)
    page = draw_shape_page(rng, size, in_view(size, 0.9 * RADII[0], 1.1 * RADII[1]))
    return Question((page,), (QuestionTurn("", ""),))


def _counting(rng: np.random.Generator, source: DigitSource) -> Question:
    """Shapes of which the number is asked: naming them is learned long before."""
    question = TASKS["shapes"](rng, source)
    turns = shape_turns(question.pictures[0].shapes)
    of_numbers = [turn for turn in turns if turn.answer not in {*SHAPES, *COLOURS}]
    return replace(question, turns=(of_numbers[int(rng.integers(len(of_numbers)))],))


def _spelling(rng: np.random.Generator, source: DigitSource) -> Question:
    """A text to repeat character by character or backwards."""
    question = TASKS["printed_text"](rng, source)
    (read,) = question.turns
    again = [turn for turn in follow_ups(read.answer) if turn.question in _AGAIN]
    return replace(question, turns=(read, again[int(rng.integers(len(again)))]))


LESSONS: Mapping[str, Maker] = {
    **TASKS,
    "page": _page,
    "digit_page": _digit_page,
    "shape_page": _shape_page,
    "counting": _counting,
    "spelling": _spelling,
    "comparing": compare_texts,
}


def draw_lesson(lesson: str, seed: int, index: int, source: DigitSource) -> Question:
    """Lesson number `index`; seeds are odd, those of the fixed evaluation set even, so that no
    picture is in both."""
    rng = np.random.default_rng([2 * seed + 1, zlib.crc32(lesson.encode()), index])
    return LESSONS[lesson](rng, source)
