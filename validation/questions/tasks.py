"""Questions for the small default model, by task: each task draws one question from a seed.

Training and evaluation draw from the same tasks with different seeds and, if pictures are not
generated (handwriting), from different halves of the data.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from validation.questions.canvas import VIEW_AREA, in_view, random_size
from validation.questions.handwritten import COLLECTIONS, Collection, draw_number
from validation.questions.picture import Picture, ShapeGroup, plural
from validation.questions.printed import draw_text
from validation.questions.question import Question, QuestionTurn
from validation.questions.shapes import draw_shapes, random_groups
from validation.questions.strings import DIGITS, MAX_LENGTH, random_text
from validation.questions.video import DIRECTIONS, draw_digits, draw_motion, random_times

MIN_EM, MAX_EM = 22.0, 32.0  # size of text, in pixels of a view

READ = (
    "What does it say?",
    "What is written here?",
    "Read the text.",
    "What does the sign say?",
    "What is the text in the picture?",
)
NUMBER = ("Which number is written by hand?", "Read the handwritten number.", "Which number is it?")
SAME = ("Do both pictures say the same?", "Is the text in both pictures the same?")
MORE = ("Which picture shows more shapes?", "In which picture are more shapes?")
SECOND = ("What does the second picture say?", "Read the text of the second picture.")
FIRST = ("What does the first picture say?", "Read the text of the first picture.")
MOTION = ("In which direction does the shape move?", "Where does the shape move?")
ORDER = ("Which digits appear, in order?", "List the digits in order of appearance.")
SPELL = "Think first: spell it. "


@dataclass(frozen=True)
class DigitSource:
    """Where a question is drawn from. `held_out` chooses the half of the handwritten digits."""

    held_out: bool = False
    collections: tuple[Collection, ...] = COLLECTIONS


Maker = Callable[[np.random.Generator, DigitSource], Question]


def _choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def small_area(rng: np.random.Generator) -> float:
    """Pixels of a picture that is shown as one view."""
    return VIEW_AREA * rng.uniform(0.45, 0.95)


def draw_small_text(rng: np.random.Generator, text: str) -> Picture:
    """`text` legible in a picture of one view."""
    while True:
        widest = 1.2 + 2.8 * len(text) / MAX_LENGTH
        size = random_size(rng, small_area(rng), (0.7, widest))
        picture = draw_text(rng, text, size, in_view(size, MIN_EM, MAX_EM))
        if picture is not None:
            return picture


def _printed_text(rng: np.random.Generator, source: DigitSource) -> Question:
    text = random_text(rng)
    return Question((draw_small_text(rng, text),), (QuestionTurn(_choose(rng, READ), text),))


def _number(rng: np.random.Generator, source: DigitSource, longest: int = 3) -> Picture:
    length = int(rng.integers(1, longest + 1))
    size = random_size(rng, small_area(rng), (0.8, 1.2 + 0.6 * length))
    collection = source.collections[int(rng.integers(len(source.collections)))]
    return draw_number(rng, length, size, collection, source.held_out)


def _handwritten_digits(rng: np.random.Generator, source: DigitSource) -> Question:
    picture = _number(rng, source)
    return Question((picture,), (QuestionTurn(_choose(rng, NUMBER), picture.text),))


def describe(groups: Sequence[ShapeGroup]) -> str:
    """The answer to "What do you see?"."""
    return " and ".join(map(str, groups))


def shape_turns(groups: Sequence[ShapeGroup]) -> list[QuestionTurn]:
    """All questions that the shapes answer."""
    turns = [
        QuestionTurn("What do you see?", describe(groups)),
        QuestionTurn("Describe it.", describe(groups)),
    ]
    total = str(sum(group.count for group in groups))
    turns.append(QuestionTurn("How many shapes are there?", total))
    if len(groups) == 1:
        (group,) = groups
        turns += [
            QuestionTurn("What shape is it?", group.shape),
            QuestionTurn("Which shape do you see?", group.shape),
            QuestionTurn("What colour is it?", group.colour),
            QuestionTurn("Which colour do you see?", group.colour),
            QuestionTurn("How many are there?", str(group.count)),
        ]
    for group in groups if len(groups) > 1 else ():
        turns += [
            QuestionTurn(f"How many {plural(group.shape, 2)} are there?", str(group.count)),
            QuestionTurn(f"What colour are the {plural(group.shape, 2)}?", group.colour),
            QuestionTurn(f"Which shape is {group.colour}?", group.shape),
        ]
    return turns


def _shape_picture(rng: np.random.Generator, most: int = 2) -> Picture:
    groups = random_groups(rng, int(rng.integers(1, most + 1)))
    return draw_shapes(rng, groups, random_size(rng, small_area(rng), (0.6, 2.0)))


def _pick_turn(rng: np.random.Generator, turns: Sequence[QuestionTurn]) -> QuestionTurn:
    return turns[int(rng.integers(len(turns)))]


def _shapes(rng: np.random.Generator, source: DigitSource) -> Question:
    picture = _shape_picture(rng)
    return Question((picture,), (_pick_turn(rng, shape_turns(picture.shapes)),))


def _changed(rng: np.random.Generator, text: str) -> str:
    """Another text: one character replaced, or something else altogether."""
    while True:
        other = random_text(rng)
        if rng.random() < 0.5:
            n = int(rng.integers(len(text)))
            other = text[:n] + other[0] + text[n + 1 :]
        if other != text:
            return other


def compare_texts(rng: np.random.Generator, source: DigitSource) -> Question:
    """Ask whether two pictures show the same text."""
    text = random_text(rng, 8)
    same = rng.random() < 0.5
    other = text if same else _changed(rng, text)
    pair = (draw_small_text(rng, text), draw_small_text(rng, other))
    return Question(pair, (QuestionTurn(_choose(rng, SAME), "yes" if same else "no"),))


def _two_pictures(rng: np.random.Generator, source: DigitSource) -> Question:
    kind = int(rng.integers(3))
    if kind == 0:
        return compare_texts(rng, source)
    if kind == 1:
        text, other = random_text(rng, 8), random_text(rng, 8)
        pair = (draw_small_text(rng, text), draw_small_text(rng, other))
        first = rng.random() < 0.5
        question = _choose(rng, FIRST if first else SECOND)
        return Question(pair, (QuestionTurn(question, text if first else other),))
    while True:
        pair = (_shape_picture(rng), _shape_picture(rng))
        counts = [sum(group.count for group in picture.shapes) for picture in pair]
        if counts[0] != counts[1]:
            answer = "the first" if counts[0] > counts[1] else "the second"
            return Question(pair, (QuestionTurn(_choose(rng, MORE), answer),))


def _slices(rng: np.random.Generator, source: DigitSource) -> Question:
    """Text that is legible only in a slice: the overview shows it at about half the size."""
    text = random_text(rng, 8)
    while True:
        columns, rows = ((2, 2), (3, 1), (1, 3))[int(rng.integers(3))]
        ratio = columns / rows
        size = random_size(
            rng, VIEW_AREA * columns * rows * rng.uniform(0.85, 1.0), (ratio * 0.85, ratio * 1.18)
        )
        column, row = int(rng.integers(columns)), int(rng.integers(rows))
        cell = (size[0] // columns, size[1] // rows)
        em = (MIN_EM, MIN_EM * 1.2)
        picture = draw_text(rng, text, size, em, window=(column * cell[0], row * cell[1], *cell))
        if picture is not None:
            return Question((picture,), (QuestionTurn(_choose(rng, READ), text),))


def _frames(rng: np.random.Generator) -> int:
    return int(rng.choice([3, 4, 5, 6], p=[0.55, 0.15, 0.15, 0.15]))


def _video_direction(rng: np.random.Generator, source: DigitSource) -> Question:
    frames, direction = _frames(rng), str(rng.choice(list(DIRECTIONS)))
    size = random_size(rng, small_area(rng), (0.75, 1.8))
    pictures = draw_motion(rng, frames, direction, size)
    times = random_times(rng, frames)
    return Question(tuple(pictures), (QuestionTurn(_choose(rng, MOTION), direction),), (times,))


def _digit_frames(rng: np.random.Generator, digits: str) -> list[Picture]:
    size = random_size(rng, small_area(rng), (0.75, 1.8))
    return draw_digits(rng, digits, size, in_view(size, MIN_EM, MAX_EM))


def _video_order(rng: np.random.Generator, source: DigitSource) -> Question:
    frames = _frames(rng)
    digits = "".join(rng.choice(list(DIGITS), size=frames, replace=False))
    pictures = _digit_frames(rng, digits)
    times = random_times(rng, frames)
    answer = " ".join(digits)
    return Question(tuple(pictures), (QuestionTurn(_choose(rng, ORDER), answer),), (times,))


def follow_ups(text: str) -> list[QuestionTurn]:
    """Questions that may follow once a text has been read."""
    return [
        QuestionTurn("How many characters is that?", str(len(text))),
        QuestionTurn("What is the first character?", text[0]),
        QuestionTurn("What is the last character?", text[-1]),
        QuestionTurn("Spell it.", " ".join(text.replace(" ", "_"))),
        QuestionTurn("Say it backwards.", text[::-1]),
    ]


def _second_turn(rng: np.random.Generator, source: DigitSource) -> Question:
    if rng.random() < 0.5:
        text = random_text(rng)
        first = QuestionTurn(_choose(rng, READ), text)
        return Question((draw_small_text(rng, text),), (first, _pick_turn(rng, follow_ups(text))))
    picture = _shape_picture(rng)
    turns = shape_turns(picture.shapes)
    first, second = (turns[n] for n in rng.choice(len(turns), size=2, replace=False))
    return Question((picture,), (first, second))


def _thinking(rng: np.random.Generator, source: DigitSource) -> Question:
    """With thinking on: the characters or the groups one by one, then the answer."""
    if rng.random() < 0.6:
        text = random_text(rng)
        spelled = " ".join(text.replace(" ", "_"))
        turns = [
            QuestionTurn(_choose(rng, READ), text, spelled),
            QuestionTurn("How many characters are there?", str(len(text)), spelled),
        ]
        return Question((draw_small_text(rng, text),), (_pick_turn(rng, turns),))
    picture = _shape_picture(rng)
    total = str(sum(group.count for group in picture.shapes))
    turn = QuestionTurn("How many shapes are there?", total, describe(picture.shapes))
    return Question((picture,), (turn,))


TASKS: Mapping[str, Maker] = {
    "printed_text": _printed_text,
    "handwritten_digits": _handwritten_digits,
    "shapes": _shapes,
    "two_pictures": _two_pictures,
    "slices": _slices,
    "video_direction": _video_direction,
    "video_order": _video_order,
    "second_turn": _second_turn,
    "thinking": _thinking,
}


def draw_question(
    task: str, seed: int, index: int, source: DigitSource = DigitSource()
) -> Question:
    """Question number `index` of a task: the same for the same `seed`, whatever is drawn before."""
    rng = np.random.default_rng([seed, zlib.crc32(task.encode()), index])
    return TASKS[task](rng, source)
