"""Transparency of every kind on a background."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mobile_runtime.errors import InputError
from mobile_runtime.pictures.images import load_image, to_rgb
from mobile_runtime.pictures.rgb import WHITE, parse_background

GREEN = (0, 128, 0)
LEVELS = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)


def composed(levels, background):
    """Over: a · colour + (1 − a) · background, rounded."""
    alpha = levels[..., 3:] / 255
    return np.rint(alpha * levels[..., :3] + (1 - alpha) * np.array(background)).astype(int)


@pytest.mark.parametrize("background", [WHITE, (0, 0, 0), (12, 200, 99)])
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "tga", "jp2", "qoi"])
def test_transparency_shows_the_background(suffix, background, tmp_path):
    image = Image.fromarray(LEVELS)
    path = tmp_path / f"clear.{suffix}"
    image.save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    expected = composed(LEVELS, background)
    with Image.open(path) as opened:
        for rgb in (load_image(path, background), to_rgb(opened, background=background)):
            assert rgb.mode == "RGB"
            assert np.abs(np.asarray(rgb).astype(int) - expected).max() <= 1


def test_white_is_the_background_and_none_leaves_transparency_out(tmp_path):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(path)
    assert load_image(path).getpixel((0, 0)) == WHITE
    assert load_image(path, None).getpixel((0, 0)) == (10, 20, 30)
    assert to_rgb(Image.new("RGBA", (2, 2), (10, 20, 30, 0))).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("mode", ["LA", "RGBA", "RGBa"])
def test_modes_with_transparency(mode):
    clear, full = Image.new("RGBA", (1, 1)), Image.new("RGBA", (1, 1), (50, 50, 50, 255))
    assert to_rgb(clear.convert(mode), background=GREEN).getpixel((0, 0)) == GREEN
    assert to_rgb(full.convert(mode), background=GREEN).getpixel((0, 0)) == (50, 50, 50)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("clear", [1, bytes([255, 0, 255])], ids=["one entry", "alpha by entry"])
@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palettes(suffix, clear, tmp_path):
    if suffix == "gif":
        clear = 1
    image, path = Image.new("P", (3, 1)), tmp_path / f"palette.{suffix}"
    image.putpalette([1, 2, 3, 200, 100, 50, 7, 8, 9])
    for n in range(3):
        image.putpixel((n, 0), n)
    image.save(path, transparency=clear)
    assert np.asarray(load_image(path, GREEN))[0].tolist() == [[1, 2, 3], [*GREEN], [7, 8, 9]]
    expected = [[1, 2, 3], [200, 100, 50], [7, 8, 9]]
    assert np.asarray(load_image(path, None))[0].tolist() == expected


def png(width, depth, colours, row, clear):
    """A PNG of one row by its specification, with a transparent level (tRNS)."""

    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, 1, depth, colours, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + chunk(b"tRNS", clear) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    )
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


GREY, RGB = 0, 2


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (png(2, 1, GREY, b"\x40", struct.pack(">H", 1)), [0, None]),
        (png(4, 2, GREY, b"\x1b", struct.pack(">H", 1)), [0, None, 170, 255]),
        (png(2, 4, GREY, b"\x5f", struct.pack(">H", 5)), [None, 255]),
        (png(2, 8, GREY, b"\x05\x0f", struct.pack(">H", 5)), [None, 15]),
        (png(2, 16, GREY, b"\x05\x05\x05\x06", struct.pack(">H", 0x505)), [None, 5]),
        (png(2, 8, RGB, bytes([7, 7, 7, 7, 7, 8]), struct.pack(">3H", 7, 7, 7)), [None, (7, 7, 8)]),
    ],
    ids=["1 bit", "2 bits", "4 bits", "8 bits", "16 bits", "colours"],
)
def test_a_level_may_be_transparent(content, shown):
    expected = [
        list(GREEN) if level is None else list(level) if isinstance(level, tuple) else [level] * 3
        for level in shown
    ]
    assert np.asarray(load_image(content, GREEN))[0].tolist() == expected
    with Image.open(io.BytesIO(content)) as opened:
        for _ in range(2):  # of a dialogue: the same picture each time
            assert np.asarray(to_rgb(opened, background=GREEN))[0].tolist() == expected


def test_a_palette_with_alpha():
    assert to_rgb(Image.new("PA", (1, 1)), background=GREEN).getpixel((0, 0)) == GREEN


def test_transparent_pictures_are_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.png"
    Image.fromarray(LEVELS).save(path, exif=exif)
    expected = np.rot90(composed(LEVELS, GREEN), -1)
    assert np.abs(np.asarray(load_image(path, GREEN)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("white", WHITE),
        ("Green", GREEN),
        ("#0c8", (0, 204, 136)),
        ("#00cc88", (0, 204, 136)),
        ("none", None),
    ],
)
def test_backgrounds(text, levels):
    assert parse_background(text) == levels


@pytest.mark.parametrize("value", ["whitish", "", "#12345", "#00000080", 3, None, [0, 0, 0]])
def test_other_backgrounds_are_refused(value):
    with pytest.raises(InputError, match="give a colour such as white or #ffffff, or none"):
        parse_background(value)
