import dataclasses
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from mobile_runtime.errors import InputError
from mobile_runtime.pictures.preprocess import (
    View,
    check_view,
    patches,
    plan_slices,
    preprocess_image,
)
from tests.paths import GOLDEN

ENTRIES = json.loads((GOLDEN / "preprocess.json").read_text())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: "x".join(map(str, entry["size"])))
def test_views_equal_the_published_processor_bit_for_bit(entry, preprocessing, picture):
    image = picture(*entry["size"], entry["k"])
    plan = plan_slices(image.width, image.height, preprocessing)
    views = preprocess_image(image, preprocessing)
    assert plan.grid == (tuple(entry["grid"]) if entry["grid"] else None)
    assert [list(view.tgt_size) for view in views] == entry["tgt_sizes"]
    assert [hashlib.sha256(view.strip.tobytes()).hexdigest() for view in views] == entry["sha256"]


@pytest.mark.parametrize(
    ("size", "grid", "overview", "cell"),
    [  # (width, height), (columns, rows), (h, w) and (h, w) in patches, from the specification
        ((448, 448), None, (32, 32), None),
        ((640, 480), (2, 1), (28, 37), (39, 26)),
        ((1344, 1344), (3, 3), (32, 32), (32, 32)),
        ((1920, 1080), (4, 2), (24, 43), (34, 30)),
        ((4032, 3024), (3, 3), None, (28, 37)),
        ((1170, 2532), (2, 4), None, (33, 31)),
        ((600, 200), None, (18, 55), None),
        ((300, 200), None, (26, 39), None),
        ((1280, 800), (3, 2), (25, 40), (31, 33)),
    ],
)
def test_plan_of_common_sizes(size, grid, overview, cell, preprocessing):
    plan = plan_slices(*size, preprocessing)
    assert plan.grid == grid
    if overview:
        assert plan.overview_size == (overview[1] * 14, overview[0] * 14)
    if grid:
        assert plan.refine_size == (grid[0] * cell[1] * 14, grid[1] * cell[0] * 14)


def test_ties_of_grids_go_to_the_first_candidate(preprocessing):
    # 448 · 2 squared needs 4 slices: 1×3, 3×1 | 1×4, 2×2, 4×1 | 1×5, 5×1; only 2×2 is square.
    assert plan_slices(896, 896, preprocessing).grid == (2, 2)
    # Two slices at most: 1×2 and 2×1 are equally far from a square.
    assert plan_slices(896, 896, preprocessing, 2).grid == (1, 2)


def test_one_slice_at_most_gives_one_view(preprocessing, picture):
    views = preprocess_image(picture(320, 180, 0), preprocessing, max_slice_nums=1)
    assert [view.tgt_size for view in views] == [(24, 43)]


def test_number_of_views_is_never_two(preprocessing):
    rng = np.random.default_rng(0)
    counts = set()
    for width, height in rng.integers(1, 4000, (2000, 2)):
        grid = plan_slices(int(width), int(height), preprocessing).grid
        counts.add(1 if grid is None else 1 + grid[0] * grid[1])
    assert counts <= {1, 3, 4, 5, 6, 7, 8, 9, 10} and {1, 3, 10} <= counts


def test_usual_aspects_stay_within_the_graph(preprocessing):
    rng = np.random.default_rng(1)
    for _ in range(2000):
        width = int(rng.integers(100, 4000))
        height = max(1, int(width * np.exp(rng.uniform(-np.log(20), np.log(20)))))
        plan = plan_slices(width, height, preprocessing)
        assert plan.overview_size[0] * plan.overview_size[1] <= 1088 * 196


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3)])
def test_tiny_pictures_are_enlarged(size, preprocessing):
    (view,) = preprocess_image(Image.new("RGB", size, (255, 0, 51)), preprocessing)
    h, w = view.tgt_size
    assert 900 <= h * w <= 1088
    check_view(view, preprocessing)
    expected = np.array([1, -1, 51 / 255 * 2 - 1], np.float32)
    np.testing.assert_allclose(view.strip.min(axis=(1, 2)), expected, atol=1e-6)
    np.testing.assert_allclose(view.strip.max(axis=(1, 2)), expected, atol=1e-6)


def test_patches_hold_channel_row_column_of_each_tile(preprocessing):
    pixels = np.random.default_rng(0).integers(0, 256, (14, 28, 3), np.uint8)
    view = View(pixels, preprocessing)
    columns = patches(view)
    assert view.tgt_size == (1, 2) and columns.shape == (588, 2)
    for c, y, x, j in [(0, 0, 0, 0), (2, 3, 5, 1), (1, 13, 13, 0), (0, 7, 2, 1)]:
        level = (pixels[y, 14 * j + x, c] / 255 - 0.5) / 0.5
        assert columns[(c * 14 + y) * 14 + x, j] == pytest.approx(level, abs=1e-6)


def test_patches_come_in_row_major_order(preprocessing):
    pixels = np.zeros((448, 448, 3), np.uint8)
    pixels[14:28, 28:42] = 255  # patch row 1, column 2
    (view,) = preprocess_image(Image.fromarray(pixels), preprocessing)
    white = np.flatnonzero(patches(view).min(axis=0) == 1)
    assert white.tolist() == [32 + 2]


def test_view_as_long_as_the_graph_is_taken(preprocessing):
    config = dataclasses.replace(preprocessing, max_patches=1024)
    (view,) = preprocess_image(Image.new("RGB", (448, 448)), config)
    check_view(view, config)
    with pytest.raises(InputError):
        check_view(view, dataclasses.replace(config, max_patches=1023))


def test_view_longer_than_the_graph_names_size_and_limit(preprocessing):
    (view,) = preprocess_image(Image.new("RGB", (14, 2000)), preprocessing)
    with pytest.raises(InputError, match=r"42×5348 pixels, 1146 patches.*1088"):
        check_view(view, preprocessing)


@pytest.mark.parametrize(("size", "slices"), [((0, 5), None), ((5, 0), None), ((5, 5), 0)])
def test_impossible_sizes_are_refused(size, slices, preprocessing):
    with pytest.raises(InputError):
        plan_slices(*size, preprocessing, slices)


def test_unsliced_models_are_refused(preprocessing):
    with pytest.raises(InputError, match="slice_mode"):
        plan_slices(448, 448, dataclasses.replace(preprocessing, slice_mode=False))
