"""The static length of the vision graphs against what the runtime's processor really makes."""

from dataclasses import replace

import numpy as np
import pytest

from export.models.preprocessor import max_view_patches
from mobile_runtime.pictures.preprocess import plan_slices


def view_lengths(width, height, config):
    """Patches of the overview and of a slice."""
    plan = plan_slices(width, height, config)
    lengths = [plan.overview_size[0] * plan.overview_size[1]]
    if plan.grid is not None:
        refined = plan.refine_size[0] * plan.refine_size[1]
        lengths.append(refined // (plan.grid[0] * plan.grid[1]))
    return [length // config.patch_size**2 for length in lengths]


def pictures(scale):
    """Random sizes, thin ones, and sizes whose aspect just gives each height of a view."""
    random = np.random.default_rng(scale)
    sizes = random.integers(1, 3000, (3000, 2)).tolist()
    sizes += [(20 * n, n) for n in range(1, 60)]
    for height in range(scale // 5, scale + 1):  # turned round, it is the width
        widest = 2000 * scale * scale // (height * height)
        sizes += [(widest - n, 2000) for n in range(2)]
    return [
        size
        for width, height in sizes
        if width > 0 and max(width, height) <= 20 * min(width, height)
        for size in ((width, height), (height, width))
    ]


def test_published_length():
    assert max_view_patches(448, 14) == 1088


@pytest.mark.parametrize("scale", [448, 224, 168, 112, 252, 376, 428, 512, 552])
def test_no_picture_exceeds_the_length_and_one_comes_within_32(scale, published_preprocessing):
    config = replace(published_preprocessing, scale_resolution=scale)
    largest = max(max(view_lengths(*size, config)) for size in pictures(scale))
    length = max_view_patches(scale, 14)
    assert length % 32 == 0
    assert length - 32 < largest <= length


def test_a_more_extreme_picture_would_exceed_it(published_preprocessing):
    lengths = [
        max(view_lengths(width, 10, published_preprocessing)) for width in range(200, 4000, 10)
    ]
    assert max(lengths) > 1088
