"""Resized pictures and cut views of the Swift package against Pillow and the Python runtime."""

import json

import numpy as np
import pytest
from PIL import Image

from mobile_runtime.pictures.preprocess import patches, preprocess_image
from tests.golden.synthetic import golden_picture


def _pictures(rng, count):
    """Noise, black and white noise, and smooth pictures, of sizes from 1 to 1500."""
    for n in range(count):
        width, height = np.exp(rng.uniform(0, np.log(1500), 2)).round().astype(int)
        if n % 3 == 2:
            yield np.asarray(golden_picture(width, height, n))
        else:
            levels = rng.integers(0, 256, (height, width, 3), np.uint8)
            yield levels if n % 3 else np.where(levels < 128, 0, 255).astype(np.uint8)


def _resized(minicpmv, tmp_path, pictures, sizes):
    cases = []
    for n, (pixels, size) in enumerate(zip(pictures, sizes, strict=True)):
        pixels.tofile(tmp_path / f"{n}.in")
        height, width, _ = pixels.shape
        names = {"input": f"{tmp_path}/{n}.in", "output": f"{tmp_path}/{n}.out"}
        cases.append(names | {"size": [width, height], "resized": list(size)})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    minicpmv("resize", tmp_path / "cases.json")
    return [
        np.fromfile(case["output"], np.uint8).reshape(*case["resized"][::-1], 3) for case in cases
    ]


def _pillow(pixels, size):
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _sizes(rng, pictures):
    for n, pixels in enumerate(pictures):
        width, height = np.exp(rng.uniform(0, np.log(900), 2)).round().astype(int).tolist()
        yield (
            pixels.shape[1] if n % 7 == 1 else width,
            pixels.shape[0] if n % 11 == 1 else height,
        )


def test_every_value_of_50_pictures_equals_pillow(minicpmv, tmp_path):
    rng = np.random.default_rng(0)
    pictures = list(_pictures(rng, 50))
    sizes = list(_sizes(rng, pictures))
    for pixels, size, result in zip(
        pictures, sizes, _resized(minicpmv, tmp_path, pictures, sizes), strict=True
    ):
        assert np.array_equal(result, _pillow(pixels, size)), (pixels.shape, size)


@pytest.mark.parametrize("difference", [-3, -2, -1, 0, 1, 2, 3])
def test_order_of_the_passes_is_that_of_pillow(difference, minicpmv, tmp_path):
    """Pillow resizes columns first when the height loses more than twice what the width does."""
    rng = np.random.default_rng(difference + 3)
    pictures, sizes = [], []
    while len(pictures) < 20:
        width, height = rng.integers(4, 120, 2).tolist()
        lost = int(rng.integers(-10, width))
        size = (width - lost, height - 2 * lost - difference)
        if min(size) >= 1:
            pictures.append(rng.integers(0, 2, (height, width, 3), np.uint8) * 255)
            sizes.append(size)
    results = _resized(minicpmv, tmp_path, pictures, sizes)
    for pixels, size, result in zip(pictures, sizes, results, strict=True):
        assert np.array_equal(result, _pillow(pixels, size)), (pixels.shape, size)


SIZES = [(448, 448), (1, 1), (640, 480), (1170, 2532), (1920, 1080), (14, 2000), (3000, 120)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("limit", [None, 1])
def test_cut_views_are_equal(width, height, limit, minicpmv, preprocessing, tmp_path):
    image = golden_picture(width, height, 3)
    np.asarray(image).tofile(tmp_path / "picture")
    options = () if limit is None else ("--max-slice-nums", str(limit))
    size = (str(width), str(height))
    shown = minicpmv("views", tmp_path / "picture", *size, tmp_path / "views", *options)
    views = preprocess_image(image, preprocessing, limit)
    assert json.loads(shown)["tgt_sizes"] == [list(view.tgt_size) for view in views]
    expected = np.concatenate([patches(view).ravel() for view in views])
    assert np.array_equal(np.fromfile(tmp_path / "views", "<f4"), expected)
