"""The result of a generator: a picture, the places of its characters, and its other content."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True)
class Glyph:
    """One character of a text: its centre, in fractions of the picture's width and height."""

    char: str
    x: float
    y: float


@dataclass(frozen=True)
class ShapeGroup:
    """Equal shapes of one colour."""

    count: int
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.count} {self.colour} {plural(self.shape, self.count)}"


@dataclass(frozen=True)
class Mark:
    """One shape: its centre, in fractions of the picture's width and height."""

    shape: str
    colour: str
    x: float
    y: float


@dataclass(frozen=True)
class Picture:
    """A picture with its exact content: the glyphs of its text in reading order, its shapes in
    groups and one by one, and a mask of the pixels that they cover."""

    image: Image.Image
    glyphs: tuple[Glyph, ...] = ()
    shapes: tuple[ShapeGroup, ...] = ()
    marks: tuple[Mark, ...] = ()
    ink: Image.Image | None = None  # mode L, white where there is content
    handwritten: bool = False
    em: float = 0.0  # size of the text in pixels of the picture
    text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", "".join(glyph.char for glyph in self.glyphs))


def plural(shape: str, count: int) -> str:
    """The English name of `count` such shapes."""
    if count == 1:
        return shape
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"
