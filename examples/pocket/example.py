"""Questions -> training examples: token ids with the answer, patches, and what the picture holds.

The prompt and the views come from the runtime's own code, so that training sees what a phone
computes. Views are kept as bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.pocket.counting import KINDS, Counts, by_columns, nearest
from mobile_runtime.bundle import Preprocessing
from mobile_runtime.chat.conversation import ChatFormat, prepare_prompt
from mobile_runtime.chat.prompt import ViewGroup
from mobile_runtime.pictures.preprocess import View, patches, plan_slices
from validation.questions.picture import Glyph, Mark, Picture
from validation.questions.question import Question
from validation.questions.shapes import COLOURS, SHAPES
from validation.questions.strings import CHARACTERS, MAX_LENGTH
from validation.questions.tasks import MIN_EM

IGNORE = -100
BLANK = 0  # class of a place without a character; CHARACTERS[n] is class n + 1
CHARACTER_CLASSES = len(CHARACTERS) + 1
HALVES = 2  # a patch may hold the middle of two narrow characters
QUARTERS = 4  # of a patch, each covered by one character at most
MARK_CLASSES = (len(SHAPES) + 1, len(COLOURS) + 1)  # of a patch with the middle of a shape
# Query q stands for what is near column q of the view's patches, or in the frame shown near time q
# · QUERY_TIME of a video: up to SLOTS characters, its part of the shapes of each kind and colour,
# or where the frame's shape is.
SLOTS = 2
QUERY_TIME = 3  # tenths of a second
PLACES = 8  # parts of a picture's width and height
_HALF_BOX = (0.35, 0.42)  # half of a character's usual width and height, in ems
_LEGIBLE = 0.85 * MIN_EM / 14  # size of text that is judged, in patches
Bytes = NDArray[np.uint8]
Classes = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingView:
    """One view: its patches (L, 588), grid, time, where it has content, the character that has its
    middle in each half patch, the one that covers each quarter, the shape and colour that has its
    middle in each patch, and how many shapes there are near it."""

    patches: Bytes
    grid: tuple[int, int]
    time: int
    content: NDArray[np.bool_]  # (L,)
    characters: Classes  # (L, HALVES)
    covering: Classes  # (L, QUARTERS)
    marks: Classes  # (L, 2)
    counts: Counts  # of L patches


@dataclass(frozen=True)
class TrainingGroup:
    """The views packed into one row of image embeddings, and what these should tell. The text is
    what the queries' slots spell in order, blanks left out, and the counts are what their parts add
    up to; None if they are not judged."""

    views: tuple[TrainingView, ...]
    text: Classes | None  # (characters,)
    counts: Counts | None  # of the queries
    places: Classes  # (queries, 2): across and down


@dataclass(frozen=True, eq=False)  # equal only to itself: a key for what is known of it
class Example:
    """A prompt with its answer; the loss counts the tokens that are `answers`, those to earlier
    questions too."""

    input_ids: NDArray[np.int64]
    image_bound: NDArray[np.int32]
    answers: NDArray[np.bool_]
    groups: tuple[TrainingGroup, ...]


def make_example(question: Question, chat_format: ChatFormat) -> Example:
    """The last turn of a question, asked after the right answers to the earlier ones."""
    answers = [turn.answer for turn in question.turns[:-1]]
    messages, options = question.messages(answers), question.options()
    prompt = prepare_prompt(messages, chat_format, options, question.max_slice_nums)
    last, tokenizer, special = question.turns[-1], chat_format.tokenizer, chat_format.prompt
    answer: list[int] = []
    if last.thoughts is not None:
        answer += tokenizer.encode_text(last.thoughts + "\n")
        answer += [special.special_tokens["think_end"].id, *tokenizer.encode_text("\n\n")]
    answer += [*tokenizer.encode_text(last.answer), special.special_tokens["message_end"].id]
    ids = prompt.encoded.input_ids
    groups = tuple(
        _group(question, views, group, chat_format.preprocessing)
        for views, group in zip(prompt.groups, prompt.encoded.groups, strict=True)
    )
    joined = np.concatenate([ids, answer]).astype(np.int64)
    said = np.arange(len(joined)) >= len(ids)
    for begin, end in _earlier_answers(joined[: len(ids)], chat_format):
        said[begin:end] = True
    return Example(joined, prompt.encoded.image_bound, said, groups)


def _earlier_answers(ids: NDArray[np.int64], chat_format: ChatFormat) -> Iterator[tuple[int, int]]:
    """Ranges of what the assistant said, up to and with the end of its message."""
    special = chat_format.prompt.special_tokens
    header = [special["message_start"].id, *chat_format.tokenizer.encode_text("assistant\n")]
    ends = np.flatnonzero(ids == special["message_end"].id)
    for start in np.flatnonzero(ids == header[0]):
        begin = int(start) + len(header)
        later = ends[ends >= begin]
        if len(later) and ids[start:begin].tolist() == header:
            yield begin, int(later[0]) + 1


def _group(
    question: Question,
    views: tuple[View, ...],
    group: ViewGroup,
    config: Preprocessing,
) -> TrainingGroup:
    pictures = [question.pictures[frame] for frame in group.frames]
    grid = plan_slices(*pictures[0].image.size, config, question.max_slice_nums).grid
    window = _window(grid, group.view)
    shown = [
        _view(picture, view, window, time)
        for picture, view, time in zip(pictures, views, group.temporal_ids, strict=True)
    ]
    if len(pictures) == 1:
        if pictures[0].shapes:  # attention gives shares of all patches: counting needs all
            shown = [replace(shown[0], content=np.ones_like(shown[0].content))]
        text = _text_of(pictures[0], shown[0], window)
        columns = shown[0].grid[1]
        middles, kinds = _shapes_in(pictures[0], window)
        counts: Counts | None = by_columns(middles, kinds, columns, config.num_queries)
        places = np.full((config.num_queries, 2), IGNORE, np.int64)
    else:
        text = _text_in_time(pictures, group.temporal_ids)
        counts = None
        places = _places_in_time(pictures, group.temporal_ids, config.num_queries)
    return TrainingGroup(tuple(shown), text, counts, places)


Box = tuple[float, float, float, float]  # left, top, width, height in fractions of the picture


def _window(grid: tuple[int, int] | None, number: int) -> Box:
    """The part of the picture that view `number` shows: all of it, or a cell of the slice grid."""
    if number == 0 or grid is None:
        return (0.0, 0.0, 1.0, 1.0)
    columns, rows = grid
    column, row = (number - 1) % columns, (number - 1) // columns
    return (column / columns, row / rows, 1 / columns, 1 / rows)


def _within(thing: Glyph | Mark, window: Box) -> tuple[float, float] | None:
    """Its place in fractions of the window; None outside."""
    x, y = (thing.x - window[0]) / window[2], (thing.y - window[1]) / window[3]
    return (x, y) if 0 <= x < 1 and 0 <= y < 1 else None


def _view(picture: Picture, view: View, window: Box, time: int) -> TrainingView:
    rows, columns = view.tgt_size
    values = np.rint((patches(view).T + 1) * 127.5).astype(np.uint8)
    content = np.zeros((rows, columns), np.bool_)
    if picture.ink is not None:
        width, height = picture.image.size
        box = (
            window[0] * width,
            window[1] * height,
            (window[0] + window[2]) * width,
            (window[1] + window[3]) * height,
        )
        small = picture.ink.resize((columns, rows), Image.Resampling.BOX, box=box)
        content = np.asarray(small) > 0
    characters = np.full((rows * columns, HALVES), BLANK, np.int64)
    legible = _em_in(picture, view.tgt_size, window) >= _LEGIBLE
    for glyph in picture.glyphs:
        place = _within(glyph, window)
        if place is None:
            continue
        x, y = place
        patch = int(y * rows) * columns + int(x * columns)
        half = int(x * columns * HALVES) % HALVES
        clash = characters[patch, half] != BLANK
        unsure = clash or not legible
        characters[patch, half] = IGNORE if unsure else CHARACTERS.index(glyph.char) + 1
    covering = _covering(picture, view.tgt_size, window, legible)
    middles, kinds = _shapes_in(picture, window)
    marks = _marks(middles, kinds, view.tgt_size)
    counts = nearest(middles, kinds, view.tgt_size)
    content |= (marks[:, :1] != BLANK).reshape(rows, columns)  # the middle of a ring is empty
    shown = content.reshape(-1)
    return TrainingView(values, view.tgt_size, time, shown, characters, covering, marks, counts)


def _covering(picture: Picture, grid: tuple[int, int], window: Box, legible: bool) -> Classes:
    """The nearest character whose box holds the middle of each quarter. Every patch that a
    character touches should know it, not only the one at its middle."""
    rows, columns = grid
    places = np.array([(glyph.x, glyph.y) for glyph in picture.glyphs]).reshape(-1, 2)
    if not len(places):
        return np.full((rows * columns, QUARTERS), BLANK, np.int64)
    places = (places - window[:2]) / window[2:] * (columns, rows)
    classes = np.array([CHARACTERS.index(glyph.char) + 1 for glyph in picture.glyphs])
    y, x = np.mgrid[0 : 2 * rows, 0 : 2 * columns] / 2 + 0.25
    away = np.stack([x, y], -1)[:, :, None] - places  # (2 rows, 2 columns, glyphs, 2)
    reach = (np.abs(away) / (_em_in(picture, grid, window) * np.array(_HALF_BOX))).max(-1)
    found = np.where(reach.min(-1) < 1, classes[reach.argmin(-1)] if legible else IGNORE, BLANK)
    quarters = found.reshape(rows, 2, columns, 2).transpose(0, 2, 1, 3)
    return np.asarray(quarters.reshape(rows * columns, QUARTERS))


def _marks(middles: NDArray[np.float64], kinds: Classes, grid: tuple[int, int]) -> Classes:
    rows, columns = grid
    across, down = (middles * (columns, rows)).astype(np.int64).T
    marks = np.full((rows * columns, 2), BLANK, np.int64)
    shapes, colours = np.split(kinds, [len(SHAPES)], 1)
    marks[down * columns + across] = np.stack([shapes.argmax(1), colours.argmax(1)], 1) + 1
    return marks


def _em_in(picture: Picture, grid: tuple[int, int], window: Box) -> float:
    """The size of the text in patches of the view."""
    return picture.em * grid[1] / (picture.image.width * window[2])


def _text_of(picture: Picture, view: TrainingView, window: Box) -> Classes | None:
    """The view's text from left to right; None if the view cuts the text or is too coarse for it. A
    page has several lines, one above the other: only its patches have targets."""
    inside = [_within(glyph, window) is not None for glyph in picture.glyphs]
    in_a_line = all(a.x < b.x for a, b in pairwise(picture.glyphs))
    if not any(inside):
        return np.empty(0, np.int64)
    legible = _em_in(picture, view.grid, window) >= _LEGIBLE
    if not (all(inside) and legible and in_a_line) or len(inside) > MAX_LENGTH:
        return None
    return _classes(picture.text)


def _text_in_time(pictures: Sequence[Picture], times: Sequence[int]) -> Classes:
    """The frames' texts in the order of their times."""
    shown = sorted(zip(times, (picture.text for picture in pictures), strict=True))
    return _classes("".join(text for _, text in shown))


def _classes(text: str) -> Classes:
    return np.array([CHARACTERS.index(char) + 1 for char in text], np.int64)


def _shapes_in(picture: Picture, window: Box) -> tuple[NDArray[np.float64], Classes]:
    """Middles (n, 2) in fractions of the window, and their kinds and colours (n, KINDS)."""
    found = [(mark, _within(mark, window)) for mark in picture.marks]
    inside = [(mark, place) for mark, place in found if place is not None]
    kinds = np.zeros((len(inside), KINDS), np.int64)
    for row, (mark, _) in zip(kinds, inside, strict=True):
        row[[SHAPES.index(mark.shape), len(SHAPES) + list(COLOURS).index(mark.colour)]] = 1
    return np.array([place for _, place in inside], np.float64).reshape(-1, 2), kinds


def _places_in_time(pictures: Sequence[Picture], times: Sequence[int], queries: int) -> Classes:
    places = np.full((queries, 2), IGNORE, np.int64)
    for picture, time in zip(pictures, times, strict=True):
        for mark in picture.marks:
            query = min(time // QUERY_TIME, queries - 1)
            places[query] = (int(mark.x * PLACES), int(mark.y * PLACES))
    return places
