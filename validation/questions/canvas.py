"""Backgrounds, colours and the wear of a picture: what lies under and over its content."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Size = tuple[int, int]  # (width, height) in pixels
Colour = NDArray[np.float32]  # red, green, blue in 0…255

VIEW_AREA = 168.0**2  # pixels that one view of the default model shows; more are sliced
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_MIN_CONTRAST = 100  # between the luma of text and ground


@dataclass(frozen=True)
class Inks:
    """Colours of the content and of the two ends of its background."""

    text: Colour
    ground: tuple[Colour, Colour]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between `low` and `high`; every octave is as likely as the next."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def in_view(size: Size, low: float, high: float) -> tuple[float, float]:
    """`low` and `high` pixels of a view, as pixels of a picture of `size` that is one view."""
    shown = math.sqrt(VIEW_AREA / (size[0] * size[1]))  # how much the view enlarges it
    return low / shown, high / shown


def random_size(rng: np.random.Generator, area: float, ratios: tuple[float, float]) -> Size:
    """A picture of about `area` pixels, its width/height log-uniform between `ratios`."""
    ratio = log_uniform(rng, *ratios)
    return max(8, round(math.sqrt(area * ratio))), max(8, round(math.sqrt(area / ratio)))


def random_inks(rng: np.random.Generator) -> Inks:
    """Colours that can be told apart by their brightness."""
    while True:
        text = random_colour(rng, (0, 20, 255))
        near = random_colour(rng, (255, 235, 0))
        far = np.clip(near + rng.uniform(-40, 40, 3).astype(np.float32), 0, 255)
        contrasts = [abs(float((text - ground) @ _LUMA)) for ground in (near, far)]
        if min(contrasts) >= _MIN_CONTRAST:
            return Inks(text, (near, far))


def random_colour(rng: np.random.Generator, greys: tuple[int, ...]) -> Colour:
    """Any colour, or one of `greys`."""
    if rng.random() < 0.6:
        return rng.uniform(0, 255, 3).astype(np.float32)
    return np.full(3, rng.choice(greys), np.float32)


def draw_ground(rng: np.random.Generator, size: Size, ends: tuple[Colour, Colour]) -> Colour:
    """(height, width, 3): a plain colour, a gradient, stripes or blotches between two colours."""
    width, height = size
    kind = rng.choice(4, p=[0.5, 0.3, 0.1, 0.1])
    near, far = ends
    if kind == 0:
        return np.broadcast_to(near, (height, width, 3))
    elif kind == 3:
        coarse = rng.uniform(0, 255, (max(2, height // 24), max(2, width // 24))).astype(np.uint8)
        blotches = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        blend = np.asarray(blotches, np.float32) / 255
    else:
        angle = rng.uniform(0, 2 * math.pi)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        blend = (x * math.cos(angle) + y * math.sin(angle)) / math.hypot(width, height)
        blend = blend % 1.0 if kind == 1 else (np.sin(blend * rng.uniform(20, 60)) > 0) * 1.0
    return np.asarray(near + blend.astype(np.float32)[..., None] * (far - near))


def overlay(ground: Colour, mask: Image.Image, ink: Colour) -> Colour:
    """Paint `ink` where `mask` (mode L) is white."""
    alpha = np.asarray(mask, np.float32)[..., None] / 255
    return np.asarray(ground + (ink - ground) * alpha)


def finish(rng: np.random.Generator, pixels: Colour, wear: float = 1.0) -> Image.Image:
    """Clip to 8 bits after noise and a little blur, both scaled by `wear` (0 to 1)."""
    if rng.random() < 0.6:
        noise = rng.standard_normal(pixels.shape[:2], np.float32)[..., None]
        pixels = pixels + noise * np.float32(rng.uniform(0, 18) * wear)
    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7) * wear))
    return image
