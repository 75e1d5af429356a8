"""Pictures of printed text: face, size, angle, colours, background and noise at random."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from validation.questions.canvas import Size, draw_ground, finish, log_uniform, overlay, random_inks
from validation.questions.fonts import FACES, load_face
from validation.questions.picture import Glyph, Picture
from validation.questions.strings import CHARACTERS

MAX_ANGLE = 10.0  # degrees


Window = tuple[int, int, int, int]  # left, top, width, height


def draw_text(
    rng: np.random.Generator,
    text: str,
    size: Size,
    em: tuple[float, float],
    window: Window | None = None,
) -> Picture | None:
    """Draw `text` on one line somewhere in `window` (None: all) of a picture of `size`.

    The font's em square is log-uniform between `em` pixels, smaller if the line would not fit.
    Returns None if it does not fit at all.
    """
    left, top, *inside = window or (0, 0, *size)
    angle = 0.0 if rng.random() < 0.3 else rng.uniform(-MAX_ANGLE, MAX_ANGLE)
    face, wanted = int(rng.integers(len(FACES))), log_uniform(rng, *em)
    layout = _fit(text, face, wanted, (inside[0], inside[1]), math.radians(angle))
    if layout is None or layout[0] < em[0]:
        return None
    pixels, (reach_x, reach_y) = layout
    centre = (
        left + rng.uniform(reach_x, inside[0] - reach_x),
        top + rng.uniform(reach_y, inside[1] - reach_y),
    )
    mask, glyphs = draw_line(text, face, pixels, size, centre, angle)
    inks = random_inks(rng)
    painted = overlay(draw_ground(rng, size, inks.ground), mask, inks.text)
    image = finish(rng, painted, wear=min(1.0, pixels / 32))
    return Picture(image, glyphs, ink=mask, em=pixels)


def _fit(
    text: str, face: int, wanted: float, size: Size, radians: float
) -> tuple[int, tuple[float, float]] | None:
    """The em, and half of the turned line's width and height; the line keeps off the border."""
    probe = load_face(face, 100)
    left, top, right, bottom = probe.getbbox(text)
    width, height = (right - left) / 100, max(bottom - top, 40) / 100
    cos, sin = abs(math.cos(radians)), abs(math.sin(radians))
    turned = (width * cos + height * sin, width * sin + height * cos)
    room = min((side - 4) / extent for side, extent in zip(size, turned, strict=True))
    pixels = int(min(wanted, room))
    if pixels < 4:
        return None
    return pixels, (turned[0] * pixels / 2 + 2, turned[1] * pixels / 2 + 2)


def draw_line(
    text: str, face: int, pixels: int, size: Size, centre: tuple[float, float], angle: float
) -> tuple[Image.Image, tuple[Glyph, ...]]:
    """The line as a mask, turned by `angle` degrees about `centre`, and where its glyphs are."""
    font = load_face(face, pixels)
    left, top, right, bottom = font.getbbox(text)
    middle = ((left + right) / 2, (top + bottom) / 2)
    mask = Image.new("L", size)
    origin = (centre[0] - middle[0], centre[1] - middle[1])
    ImageDraw.Draw(mask).text(origin, text, font=font, fill=255)
    if angle:
        mask = mask.rotate(angle, Image.Resampling.BICUBIC, center=centre)
    radians = math.radians(angle)
    edges = [font.getlength(text[:n]) for n in range(len(text) + 1)]
    glyphs = []
    for n, char in enumerate(text):
        along = (edges[n] + edges[n + 1]) / 2 - middle[0]
        x, y = centre[0] + along * math.cos(radians), centre[1] - along * math.sin(radians)
        glyphs.append(Glyph(char, x / size[0], y / size[1]))
    return mask, tuple(glyphs)


def draw_page(rng: np.random.Generator, size: Size, em: tuple[float, float]) -> Picture:
    """Lines of random characters that fill the picture, some cut by its border: for learning
    characters, not for questions."""
    angle = rng.uniform(-MAX_ANGLE, MAX_ANGLE)
    pixels = int(log_uniform(rng, *em))
    font = load_face(int(rng.integers(len(FACES))), pixels)
    above, below = font.getbbox("H")[1::2]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    centre = (size[0] / 2, size[1] / 2)
    # How far the picture reaches on the turned page, from its centre.
    reach = (centre[0] * cos + centre[1] * abs(sin), centre[1] * cos + centre[0] * abs(sin))
    mask, glyphs = Image.new("L", size), []
    draw = ImageDraw.Draw(mask)
    top = centre[1] - reach[1] - rng.uniform(0, pixels)
    while top < centre[1] + reach[1]:
        left = centre[0] - reach[0] - rng.uniform(0, pixels)
        numbers = rng.integers(len(CHARACTERS), size=int(4 * reach[0] / pixels) + 2)
        text = "".join(CHARACTERS[n] for n in numbers)
        draw.text((left, top), text, font=font, fill=255)
        edges = [font.getlength(text[:n]) for n in range(len(text) + 1)]
        y = top + (above + below) / 2 - centre[1]
        for n, char in enumerate(text):
            x = left + (edges[n] + edges[n + 1]) / 2 - centre[0]
            place = (centre[0] + x * cos + y * sin, centre[1] - x * sin + y * cos)
            glyphs.append(Glyph(char, place[0] / size[0], place[1] / size[1]))
        top += pixels * rng.uniform(1.0, 2.0)
    mask = mask.rotate(angle, Image.Resampling.BICUBIC, center=centre)
    inks = random_inks(rng)
    painted = overlay(draw_ground(rng, size, inks.ground), mask, inks.text)
    inside = tuple(g for g in glyphs if 0 <= g.x < 1 and 0 <= g.y < 1)
    return Picture(finish(rng, painted, wear=min(1.0, pixels / 32)), inside, ink=mask, em=pixels)
