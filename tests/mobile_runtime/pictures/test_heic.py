"""HEIC pictures, with pillow-heif and without."""

import builtins
import io
import struct

import numpy as np
import pytest
from PIL import Image

from mobile_runtime.errors import InputError
from mobile_runtime.pictures.heic import is_heic
from mobile_runtime.pictures.images import load_image, to_rgb
from tests.mobile_runtime.pictures.test_images import UPRIGHT


def header(brand):
    return struct.pack(">I4s4sI4s", 20, b"ftyp", brand, 0, brand)


@pytest.fixture
def heif():
    return pytest.importorskip("pillow_heif", reason="reads HEIC; the extra heic installs it")


def picture(height=64, width=96):
    """Smooth, and different in each corner."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) // 2], axis=2).astype(np.uint8)


def heic(heif, pixels, **options):
    file = io.BytesIO()
    heif.from_pillow(Image.fromarray(pixels)).save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("given", ["path", "bytes", "opened"])
def test_a_picture_is_turned_once(heif, orientation, given, tmp_path):
    """Phones write how a picture is turned twice: in the container and in its EXIF."""
    content = heic(heif, picture(), exif=oriented(orientation))
    path = tmp_path / "photo.heic"
    path.write_bytes(content)
    if given == "opened":
        with heif.HeifImageFile(path) as opened:
            image = to_rgb(opened)
    else:
        image = load_image(path if given == "path" else content)
    expected = UPRIGHT[orientation](picture()).astype(int)
    assert image.size == expected.shape[1::-1] and image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 3


def test_transparent_heic_shows_the_background(heif):
    pixels = np.dstack([picture(), np.full((64, 96), 0, np.uint8)])
    image = np.asarray(load_image(heic(heif, pixels), (0, 128, 0))).astype(int)
    assert np.abs(image - [0, 128, 0]).max() <= 2


@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.99])
def test_cut_heic_is_named(heif, part, tmp_path):
    content = heic(heif, picture())
    path = tmp_path / "cut.heic"
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InputError, match=r"cut\.heic is "):
        load_image(path)


def test_large_heic_is_refused_before_it_is_decoded(heif, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="has too many pixels"):
        load_image(heic(heif, picture()))


def test_without_pillow_heif_the_extra_is_named(monkeypatch, tmp_path):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pillow_heif":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    path = tmp_path / "photo.jpg"  # whatever it is called
    for brand in (b"heic", b"heix", b"mif1", b"hevc"):
        path.write_bytes(header(brand) + bytes(100))
        with pytest.raises(InputError, match=r"photo.jpg is a HEIC picture, .*\.\[heic\]'"):
            load_image(path)


@pytest.mark.parametrize("head", [b"", b"ftypheic", header(b"isom"), header(b"avif"), b"\xff\xd8"])
def test_other_files_are_not_heic(head):
    assert not is_heic(head)
