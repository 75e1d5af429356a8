"""Pictures go in and come out as coremltools gives and takes them."""

import numpy as np
import pytest
from PIL import Image

from mobile_runtime import InputError, Package

ct = pytest.importorskip("coremltools")
torch = pytest.importorskip("torch")

RNG = np.random.default_rng(1)
HEIGHT, WIDTH = 6, 10
PIXELS = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
SCALE, BIAS = 1 / 127.5, (-1.0, -0.5, 0.25)
LAYOUTS = {
    "RGB": ct.colorlayout.RGB,
    "BGR": ct.colorlayout.BGR,
    "L": ct.colorlayout.GRAYSCALE,
    "F": ct.colorlayout.GRAYSCALE_FLOAT16,
}


def picture_of(layout):
    """(PIL picture, the array that stands for it, what the program sees before scale and bias)."""
    if layout in ("RGB", "BGR"):
        channels = PIXELS if layout == "RGB" else PIXELS[..., ::-1]
        return Image.fromarray(PIXELS), PIXELS, channels.transpose(2, 0, 1)[None]
    if layout == "L":
        return Image.fromarray(PIXELS[..., 0]), PIXELS[..., 0], PIXELS[None, None, ..., 0]
    levels = (PIXELS[..., 0] / np.float32(255)).astype(np.float16).astype(np.float32)
    return Image.fromarray(levels), levels, levels[None, None]


def image_type(layout, shape=None, **options):
    channels = 3 if layout in ("RGB", "BGR") else 1
    return ct.ImageType(
        "image",
        shape=shape or (1, channels, HEIGHT, WIDTH),
        color_layout=LAYOUTS[layout],
        **options,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_program_sees_the_picture_as_pytorch_would(layout, convert):
    picture, array, seen = picture_of(layout)
    bias = list(BIAS) if seen.shape[1] == 3 else BIAS[0]
    path = convert(lambda x: x * 2, [seen.shape], [image_type(layout, scale=SCALE, bias=bias)])
    package = Package(path, precision="fp32")
    shift = np.reshape(BIAS[: seen.shape[1]], (1, -1, 1, 1))
    expected = (seen.astype(np.float64) * SCALE + shift) * 2
    for given in (picture, array):
        (result,) = package.predict({"image": given}).values()
        np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_output_is_a_picture_of_the_mode_that_coremltools_gives(layout, convert):
    channels = 3 if layout in ("RGB", "BGR") else 1
    values = RNG.uniform(-40, 300, (1, channels, HEIGHT, WIDTH)).astype(np.float32)
    path = convert(
        lambda x: x + 1,
        [values.shape],
        [ct.TensorType("x", shape=values.shape)],
        outputs=[ct.ImageType("y", color_layout=LAYOUTS[layout])],
    )
    picture = Package(path, precision="fp32").predict({"x": values})["y"]
    assert picture.mode == {"L": "L", "F": "F"}.get(layout, "RGBA")
    shown = np.asarray(picture)
    if layout == "F":
        np.testing.assert_array_equal(shown, (values[0, 0] + 1).astype(np.float16))
        return
    levels = np.rint(np.clip(values[0] + 1, 0, 255)).transpose(1, 2, 0)
    if layout == "L":
        np.testing.assert_array_equal(shown, levels[..., 0])
        return
    assert (shown[..., 3] == 255).all()
    rgb = levels if layout == "RGB" else levels[..., ::-1]
    np.testing.assert_array_equal(shown[..., :3], rgb)


def test_what_coremltools_refuses_is_refused_in_one_sentence(convert):
    path = convert(lambda x: x, [(1, 3, HEIGHT, WIDTH)], [image_type("RGB")])
    package = Package(path)
    for given, said in (
        (Image.new("RGB", (WIDTH, HEIGHT + 1)), r"7 × 10 \(height × width\).*takes 6 × 10; scale"),
        (Image.new("L", (WIDTH, HEIGHT)), "a PIL picture of mode L.*of mode RGB"),
        (np.zeros((1, 3, HEIGHT, WIDTH), np.float32), r"\(1, 3, 6, 10\) and type float32"),
        (PIXELS.astype(np.float32), "type float32.*of uint8, red first"),
        ("sign.png", "a value of type str"),
    ):
        with pytest.raises(InputError, match=said):
            package.predict({"image": given})
    with pytest.raises(InputError, match=r"needs the input image \(picture, 6 × 10\)"):
        package.predict({})


def sized(low, high):
    return ct.RangeDim(low, high, default=low)


@pytest.mark.parametrize(
    ("shape", "taken", "refused", "allowed"),
    [
        (
            ct.Shape((1, 3, sized(6, 8), sized(10, 12))),
            [(6, 10), (8, 12), (7, 11)],
            [(5, 10), (9, 10), (6, 13)],
            "6…8 × 10…12",
        ),
        (
            ct.EnumeratedShapes([(1, 3, 6, 10), (1, 3, 12, 20)]),
            [(6, 10), (12, 20)],
            [(6, 20), (12, 10), (8, 10)],
            "6 × 10 or 12 × 20",
        ),
    ],
    ids=["range", "enumerated"],
)
def test_sizes_of_pictures_are_those_of_the_package(shape, taken, refused, allowed, convert):
    path = convert(lambda x: x.mean((2, 3)), [(1, 3, 6, 10)], [image_type("RGB", shape)])
    package = Package(path)
    for height, width in taken:
        (mean,) = package.predict({"image": Image.new("RGB", (width, height), (1, 2, 3))}).values()
        np.testing.assert_array_equal(mean, [[1, 2, 3]])
    for height, width in refused:
        with pytest.raises(InputError, match=f"takes {allowed}; scale it"):
            package.predict({"image": Image.new("RGB", (width, height))})
