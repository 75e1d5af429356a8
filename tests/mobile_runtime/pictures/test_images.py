import os
import random
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

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


def exif_block(*entries):
    """An EXIF block of entries (tag, type, count, four bytes of value or offset), little-endian."""
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in sorted(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


ORIENTED = (0x0112, 3, 1, struct.pack("<H2x", 6))
ENTRIES = {
    "x": 0x011A,
    "y": 0x011B,
    "unit": 0x0128,
    "software": 0x0131,
    "time": 0x0132,
    "exif": 0x8769,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", range(1, 14))
@pytest.mark.parametrize("tag", ENTRIES.values(), ids=ENTRIES)
def test_entries_of_a_wrong_type_cost_neither_picture_nor_orientation(tag, kind, tmp_path):
    block = exif_block(ORIENTED, (tag, kind, 1, b"\x48\0\0\0"))
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (12, 8), (250, 0, 0)).save(path, exif=block)
    assert load_image(path).size == (8, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of the same entries
        with Image.open(path) as given:
            assert to_rgb(given).size == (8, 12)


@pytest.mark.filterwarnings("error")
def test_a_damaged_block_never_costs_the_picture(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "photo.jpg"
    for _ in range(400):
        entries = [ORIENTED]
        for _ in range(rng.randint(1, 5)):
            tag = rng.choice([*ENTRIES.values(), rng.randrange(1 << 16)])
            kind, count = rng.randrange(16), rng.choice([0, 1, 4, 1 << 20, 0xFFFFFFFF])
            entries.append((tag, kind, count, rng.randbytes(4)))
        block = bytearray(exif_block(*entries))
        for _ in range(rng.randint(0, 3)):
            block[rng.randrange(6, len(block))] = rng.randrange(256)
        Image.new("RGB", (12, 8), (250, 0, 0)).save(path, exif=bytes(block))
        assert load_image(path).size in {(12, 8), (8, 12)}


@pytest.mark.parametrize("kind", ["profile", "text", "both"])
def test_large_profiles_and_texts_cost_no_picture(kind, tmp_path):
    path, texts = tmp_path / "photo.png", PngImagePlugin.PngInfo()
    noise = np.random.default_rng(0).integers(0, 256, (12, 8, 3), np.uint8)
    options = {}
    if kind != "profile":
        texts.add_text("note", "word " * 600_000, zip=True)
        options["pnginfo"] = texts
    if kind != "text":
        options["icc_profile"] = bytes(2_000_000)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(path, exif=exif, **options)
    np.testing.assert_array_equal(np.asarray(load_image(path)), UPRIGHT[6](noise))
    np.testing.assert_array_equal(np.asarray(load_image(path.read_bytes())), UPRIGHT[6](noise))


def test_a_picture_that_was_opened_is_turned_like_its_file_and_a_changed_one_is_not(tmp_path):
    path, exif = tmp_path / "photo.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 8)).save(path, exif=exif)
    with Image.open(path) as opened:
        assert to_rgb(opened).size == load_image(path).size == (8, 12)
        turned = opened.transpose(Image.Transpose.ROTATE_270)
    assert to_rgb(turned).size == (8, 12)


def test_damaged_and_closed_pictures_are_named(tmp_path):
    path = tmp_path / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    with Image.open(path) as closed:
        pass
    with pytest.raises(InputError, match="the given picture was closed before it was read"):
        to_rgb(closed)
    path.write_bytes(path.read_bytes()[:-200])
    with (
        Image.open(path) as cut,
        pytest.raises(InputError, match="the given picture is damaged or incomplete"),
    ):
        to_rgb(cut)


def test_16_bits_are_scaled_strip_by_strip(tmp_path):
    """A picture higher than a strip; memory is bounded by one."""
    levels = np.arange(700 * 3, dtype=np.uint16).reshape(700, 3) * 31
    grey = np.asarray(to_rgb(Image.fromarray(levels)))[..., 0]
    np.testing.assert_array_equal(grey, np.rint(levels / 257).astype(np.uint8))


def test_names_that_no_system_takes_are_named_briefly(tmp_path):
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(InputError, match="give a picture file") as raised:
            load_image(tmp_path / name)
        assert len(str(raised.value)) < 400


def test_a_pipe_is_no_regular_file(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(InputError, match="is no regular file"):
        load_image(path)
