"""Slicing plans of the Swift package against the Python runtime's."""

import json

import numpy as np
import pytest

from mobile_runtime.pictures.preprocess import plan_slices


def _line(plan):
    return {
        "overview_size": list(plan.overview_size),
        "grid": None if plan.grid is None else list(plan.grid),
        "refine_size": None if plan.refine_size is None else list(plan.refine_size),
    }


def _planned(minicpmv, sizes, tmp_path, *options):
    path = tmp_path / "sizes.txt"
    path.write_text("".join(f"{width}x{height}\n" for width, height in sizes))
    lines = minicpmv("slice", path, *options).splitlines()
    absent = {"grid": None, "refine_size": None}
    return [absent | json.loads(line) for line in lines]


def test_plans_of_100_000_random_sizes_are_equal(minicpmv, preprocessing, tmp_path):
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(0, np.log(20_000), (50_000, 2))).astype(int)
    sizes = [*sizes.tolist(), *rng.integers(100, 5000, (50_000, 2)).tolist()]
    expected = [_line(plan_slices(*size, preprocessing)) for size in sizes]
    assert _planned(minicpmv, sizes, tmp_path) == expected


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 12, 100])
def test_plans_under_any_limit_are_equal(limit, minicpmv, preprocessing, tmp_path):
    rng = np.random.default_rng(limit)
    sizes = rng.integers(1, 6000, (2000, 2)).tolist()
    # Whole multiples of 448 and of 224, where rounding and ties decide.
    sides = [224 * n for n in range(1, 25)]
    sizes += [[width, height] for width in sides for height in sides]
    expected = [_line(plan_slices(*size, preprocessing, limit)) for size in sizes]
    assert _planned(minicpmv, sizes, tmp_path, "--max-slice-nums", str(limit)) == expected


def test_extreme_sizes_are_equal(minicpmv, preprocessing, tmp_path):
    sides = [1, 2, 3, 13, 14, 15, 447, 448, 449, 100_000, 2**31]
    sizes = [[width, height] for width in sides for height in sides]
    expected = [_line(plan_slices(*size, preprocessing)) for size in sizes]
    assert _planned(minicpmv, sizes, tmp_path) == expected
