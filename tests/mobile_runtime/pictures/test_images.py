import random

import numpy as np
import pytest
from PIL import Image

from mobile_runtime.errors import InputError
from mobile_runtime.pictures.images import load_image, to_rgb


@pytest.fixture
def corners():
    """A 3 × 2 picture with four different corners."""
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0], pixels[0, 2], pixels[1, 0], pixels[1, 2] = (255, 0, 0), (0, 255, 0), 9, 200
    return pixels


# What a viewer shows for each EXIF orientation of stored pixels, from the EXIF standard's
# table of which visual side the first row and the first column are.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p.transpose(1, 0, 2), 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_picture_is_turned_as_its_exif_says(orientation, corners, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(corners).save(path, exif=exif)
    assert np.array_equal(np.asarray(load_image(path)), UPRIGHT[orientation](corners))


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    levels = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    image = load_image(tmp_path / "grey.png")
    assert image.mode == "RGB"
    assert np.asarray(image)[0].tolist() == [[v, v, v] for v in (0, 1, 128, 255)]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_16_bit_grey_may_have_any_byte_order(mode):
    image = Image.new(mode, (2, 1), 3 * 257)
    assert np.asarray(to_rgb(image)).tolist() == [[[3, 3, 3]] * 2]


def test_32_bit_grey_counts_as_16_bit():
    image = Image.fromarray(np.array([[0, 65535]], np.int32))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 255]
    with pytest.raises(InputError, match="outside 0…65535"):
        to_rgb(Image.fromarray(np.array([[0, 65536]], np.int32)))


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 0.2, 1], [0, 51, 255]), ([0, 2, 255], [0, 2, 255])]
)
def test_floats_count_as_fractions_or_as_levels(values, expected):
    image = Image.fromarray(np.array([values], np.float32))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [-0.5, 256, np.nan, np.inf])
def test_floats_without_a_scale_are_refused(value):
    with pytest.raises(InputError, match="outside"):
        to_rgb(Image.fromarray(np.array([[0, value]], np.float32)), "scan.tiff")


def test_alpha_is_dropped(tmp_path):
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert load_image(tmp_path / "clear.png").getpixel((0, 0)) == (10, 20, 30)


def test_palette_is_expanded(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png")
    assert list(load_image(tmp_path / "palette.png").get_flattened_data()) == [
        (1, 2, 3),
        (200, 100, 50),
    ]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_first_frame_of_an_animation_is_taken(suffix, tmp_path):
    path = tmp_path / f"moving.{suffix}"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    lossless = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **lossless)
    assert load_image(path).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK", "YCbCr", "HSV", "RGBX", "PA"])
def test_other_modes_become_rgb(mode):
    assert to_rgb(Image.new(mode, (2, 2))).mode == "RGB"


def test_mode_without_conversion_is_named():
    with pytest.raises(InputError, match=r"photo\.tiff has the mode La"):
        to_rgb(Image.new("La", (2, 2)), "photo.tiff")


def test_missing_file_folder_and_empty_file_are_named(tmp_path):
    (tmp_path / "empty.jpg").touch()
    for name, match in [
        ("none.jpg", r"none\.jpg does not exist"),
        ("", "is a folder"),
        ("empty.jpg", r"empty\.jpg is empty"),
    ]:
        with pytest.raises(InputError, match=match):
            load_image(tmp_path / name)


@pytest.mark.parametrize("content", [b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x00" * 5000])
def test_file_that_is_no_picture_is_named(content, tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"notes\.jpg is not a picture"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff", "ppm"])
def test_truncated_file_is_named(suffix, tmp_path):
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"cut\.{suffix} is "):
        load_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff", "ppm", "avif"])
def test_damage_is_an_input_error_or_a_picture(suffix, tmp_path):
    path = tmp_path / f"damaged.{suffix}"
    noise = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content, rng = path.read_bytes(), random.Random(2)
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(min(len(damaged), 600))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            assert load_image(path).mode == "RGB"
        except InputError as error:
            assert path.name in str(error)


def test_decompression_bomb_is_named(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (1000, 1000)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(InputError, match=r"bomb\.png has too many pixels"):
        load_image(path)


@pytest.mark.filterwarnings("error")
def test_large_photo_below_the_limit_is_read_without_a_warning(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("L", (400, 400)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    assert load_image(path).size == (400, 400)
