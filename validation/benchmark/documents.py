"""Pages, receipts and charts with their exact content, drawn from a seed."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from validation.questions.fonts import FACES, load_face
from validation.questions.picture import Picture
from validation.questions.question import Question, QuestionTurn
from validation.questions.strings import LETTERS, random_text

_READ = "Read all of the text in the picture, line by line. Give nothing else."
_INK, _PAPER = (25, 25, 30), (250, 250, 245)
_MARGIN, _WIDTH = 24, 560  # pixels
_LINE = 34  # characters of a line of a page, at most
_COLOURS = ((52, 101, 164), (204, 70, 50), (78, 154, 6), (190, 140, 20), (117, 80, 123))


def page(rng: np.random.Generator) -> Question:
    """A page of four to eight lines of words, codes and prices in one face."""
    lines = [_words(rng) for _ in range(int(rng.integers(4, 9)))]
    face = int(rng.integers(len(FACES)))
    return _read(_print([(line, "") for line in lines], face), "\n".join(lines))


def receipt(rng: np.random.Generator) -> Question:
    """A receipt: three to seven goods with prices at the right, and their sum."""
    goods = []
    for _ in range(int(rng.integers(3, 8))):
        name = "".join(LETTERS[n] for n in rng.integers(len(LETTERS), size=int(rng.integers(4, 9))))
        goods.append((name, int(rng.integers(5, 5000))))
    rows = [(name, _money(cents)) for name, cents in goods]
    rows.append(("TOTAL", _money(sum(cents for _, cents in goods))))
    return _read(_print(rows, int(rng.integers(len(FACES)))), "\n".join(map(" ".join, rows)))


def chart(rng: np.random.Generator) -> Question:
    """A bar chart of a table of three to five rows; one of the values is asked for."""
    count = int(rng.integers(3, 6))
    letters = rng.choice(len(LETTERS), size=count, replace=False)
    names = [LETTERS[n] * 2 for n in letters]
    values = rng.integers(1, 11, size=count) * 10
    asked = int(rng.integers(count))
    question = f"What is the value of {names[asked]} in the chart? Answer with only the number."
    picture = _bars(names, values.tolist(), int(rng.integers(len(FACES))))
    return Question((picture,), (QuestionTurn(question, str(values[asked])),))


def _read(picture: Picture, text: str) -> Question:
    return Question((picture,), (QuestionTurn(_READ, text),))


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _words(rng: np.random.Generator) -> str:
    line = random_text(rng)
    while len(longer := f"{line} {random_text(rng)}") <= _LINE:
        line = longer
    return line


def _print(rows: list[tuple[str, str]], face: int) -> Picture:
    """Rows of a text at the left and one at the right, black on paper."""
    pixels, step = 24, 36
    image = Image.new("RGB", (_WIDTH, 2 * _MARGIN + step * len(rows)), _PAPER)
    draw = ImageDraw.Draw(image)
    for n, (left, right) in enumerate(rows):
        font = load_face(face, pixels)
        if (length := font.getlength(left)) > _WIDTH - 2 * _MARGIN:
            font = load_face(face, int(pixels * (_WIDTH - 2 * _MARGIN) / length))
        top = _MARGIN + n * step
        draw.text((_MARGIN, top), left, font=font, fill=_INK)
        draw.text((_WIDTH - _MARGIN, top), right, font=font, fill=_INK, anchor="ra")
    return Picture(image, em=pixels)


def _bars(names: list[str], values: list[int], face: int) -> Picture:
    height, left, top = 360, 60, 30
    floor, font = height - 50, load_face(face, 20)
    image = Image.new("RGB", (_WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(image)

    def level(value: int) -> float:
        return floor - (floor - top) * value / 100

    for tick in range(0, 101, 10):
        draw.line((left, level(tick), _WIDTH - _MARGIN, level(tick)), fill=(205, 205, 205))
        draw.text((left - 8, level(tick)), str(tick), font=font, fill=_INK, anchor="rm")
    step = (_WIDTH - _MARGIN - left) / len(names)
    for n, (name, value) in enumerate(zip(names, values, strict=True)):
        middle = left + (n + 0.5) * step
        box = (middle - step / 4, level(value), middle + step / 4, floor)
        draw.rectangle(box, fill=_COLOURS[n])
        draw.text((middle, floor + 8), name, font=font, fill=_INK, anchor="ma")
    return Picture(image, em=20)


KINDS = (page, receipt, chart)  # in this order: each is a part of the seed
