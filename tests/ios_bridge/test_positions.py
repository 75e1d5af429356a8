"""Position tables and masks of the Swift package against the Python runtime's."""

import json

import numpy as np
import pytest

from mobile_runtime.model.positions import (
    bucket_positions,
    causal_mask,
    position_ids,
    rope_tables,
    sincos_1d,
    sincos_2d,
    sincos_time,
)


@pytest.fixture
def tables(minicpmv, tmp_path):
    """Ask for tables as (name, numbers, further fields) and get their values in a row."""

    def compute(requests, dtype="<f4"):
        listed = [{"table": name, "numbers": n, **more} for name, n, more in requests]
        (tmp_path / "requests.json").write_text(json.dumps(listed))
        minicpmv("tables", tmp_path / "requests.json", tmp_path / "tables.raw")
        return np.fromfile(tmp_path / "tables.raw", dtype)

    return compute


@pytest.mark.parametrize("buckets", [70, 8, 1])
def test_buckets_of_every_length_are_equal(buckets, tables):
    got = tables([("bucket_positions", [n, buckets], {}) for n in range(1, 1200)], "<i4")
    expected = [bucket_positions(n, buckets) for n in range(1, 1200)]
    assert np.array_equal(got, np.concatenate(expected))


def test_position_ids_of_every_grid_are_equal(tables):
    grids = [(h, w) for h in range(1, 80, 3) for w in range(1, 80, 2)]
    got = tables([("position_ids", [h, w, 70], {}) for h, w in grids], "<i4")
    assert np.array_equal(got, np.concatenate([position_ids(h, w) for h, w in grids]))


@pytest.mark.parametrize("dim", [8, 128, 2048, 4096])
def test_sincos_tables_are_equal(dim, tables):
    positions = list(range(140))
    got = tables([("sincos_1d", [dim], {"positions": positions})])
    assert np.array_equal(got, sincos_1d(positions, dim).ravel())


def test_tables_of_grids_are_equal(tables):
    got = tables([("sincos_2d", [23, 44, 512], {})])
    assert np.array_equal(got, sincos_2d(23, 44, 512).ravel())


def test_tables_of_times_are_equal(tables):
    ids = [-1, 0, 1, 5, 1800, 17999, 36000, 71999]
    got = tables([("sincos_time", [4096], {"positions": ids})])
    assert np.array_equal(got, sincos_time(ids, 4096).ravel())


@pytest.mark.parametrize(("head_dim", "theta"), [(128, 1e6), (32, 1e6), (64, 10_000.0)])
def test_rotary_tables_are_equal(head_dim, theta, tables):
    got = tables([("rope", [0, 4096, head_dim], {"theta": theta})])
    expected = np.concatenate(
        [table.T.ravel() for table in rope_tables(np.arange(4096), head_dim, theta)]
    )
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("kind", ["state", "io"])
def test_masks_are_equal(kind, tables):
    cases = [(p, n, 160) for p in (0, 1, 63, 64, 95, 96, 159) for n in (1, 8, 64) if p + n <= 160]
    got = tables([(f"mask_{kind}", list(case), {}) for case in cases])
    expected = [causal_mask(*case, kind == "state").ravel() for case in cases]
    assert np.array_equal(got, np.concatenate(expected))
