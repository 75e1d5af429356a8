"""Compressed weights are expanded a block of rows at a time, within a budget in bytes."""

from __future__ import annotations

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine, products, values
from mobile_runtime.mlprogram.packing import read_units, unpack

mb = pytest.importorskip("coremltools.converters.mil").Builder
types = pytest.importorskip("coremltools.converters.mil").mil.types

ROWS, COLUMNS, GROUPS = 512, 256, 32
WHOLE = 4 * ROWS * COLUMNS  # bytes of a weight, expanded
BLOCK = WHOLE // 8
UINT = {4: types.np_uint4_dtype, 6: types.np_uint6_dtype, 8: np.uint8}
RNG = np.random.default_rng(0)


@pytest.fixture
def expanded(monkeypatch):
    """Bytes of each expansion, in order."""
    found = []
    fill, rows = values.StoredLut.fill, values.StoredLut.rows

    def note_fill(self, begin, end, out):
        if self.is_compiled:
            found.append(out.nbytes)
        fill(self, begin, end, out)

    def note_rows(self, begin, end):
        found.append(4 * (end - begin) * COLUMNS)
        return rows(self, begin, end)

    monkeypatch.setattr(values.StoredLut, "fill", note_fill)
    monkeypatch.setattr(values.StoredLut, "rows", note_rows)
    monkeypatch.setattr(products, "_BLOCK_BYTES", BLOCK)
    return found


def palettized(bits=4, seed=0, across=1):
    """Indices, and tables for groups of 16 rows and COLUMNS / `across` columns: those of several
    groups of columns are read without compiled kernels."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, 1 << bits, (ROWS, COLUMNS, 1, 1)).astype(np.uint8)
    lut = rng.standard_normal((GROUPS, across, 1, 1, 1 << bits, 1)).astype(np.float16)
    return indices, lut


def save_conv(save, weights, x):
    def build(x):
        results = []
        for indices, lut in weights:
            typed = indices.astype(UINT[(lut.shape[-2] - 1).bit_length()])
            results.append(mb.conv(x=x, weight=mb.constexpr_lut_to_dense(indices=typed, lut=lut)))
        return results

    return save(build, {"x": x})


def dense(indices, lut):
    group = np.arange(ROWS)[:, None] // (ROWS // GROUPS)
    across = np.arange(COLUMNS) // (COLUMNS // lut.shape[1])
    return lut[:, :, 0, 0, :, 0].astype(np.float32)[group, across, indices[:, :, 0, 0]]


@pytest.mark.parametrize(("across", "length"), [(1, 5), (2, 1), (2, 5)])
def test_without_a_budget_no_more_than_a_block_is_expanded_at_once(across, length, save, expanded):
    x = RNG.standard_normal((1, COLUMNS, 1, length)).astype(np.float16)
    package = save_conv(save, [palettized(across=across)], x)
    engine = MilEngine(package, precision="fp32", cache_bytes=0)
    for _ in range(2):
        result = engine.run({"x": x})["result_0"]
        assert max(expanded) <= BLOCK and sum(expanded) == WHOLE
        expanded.clear()
    expected = dense(*palettized(across=across)) @ x[0, :, 0].astype(np.float32)
    np.testing.assert_allclose(result[0, :, 0], expected, rtol=1e-5, atol=1e-4)


def test_a_column_meets_the_stored_bytes_and_nothing_is_expanded(save, expanded):
    x = RNG.standard_normal((1, COLUMNS, 1, 1)).astype(np.float16)
    result = MilEngine(save_conv(save, [palettized()], x), precision="fp32").run({"x": x})
    assert expanded == []
    expected = dense(*palettized()) @ x[0, :, 0].astype(np.float32)
    np.testing.assert_allclose(result["result_0"][0, :, 0], expected, rtol=1e-5, atol=1e-4)


def test_what_fits_the_budget_is_expanded_once_and_the_rest_by_blocks(save, expanded):
    x = np.ones((1, COLUMNS, 1, 1), np.float16)
    weights = [palettized(seed=seed, across=2) for seed in range(3)]
    engine = MilEngine(save_conv(save, weights, x), cache_bytes=2 * WHOLE)
    engine.run({"x": x})
    assert expanded[:2] == [WHOLE, WHOLE]
    assert max(expanded[2:]) <= BLOCK and sum(expanded[2:]) == WHOLE
    expanded.clear()
    engine.run({"x": x})
    assert max(expanded) <= BLOCK and sum(expanded) == WHOLE


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("across", [1, 2])
def test_expansion_by_blocks_equals_the_table(bits, across, save, monkeypatch):
    monkeypatch.setattr(products, "_BLOCK_BYTES", 4 * COLUMNS * 24)  # not whole groups
    monkeypatch.setattr(products, "_ROWS", 8)
    indices, lut = palettized(bits, across=across)
    x = np.eye(COLUMNS, dtype=np.float16)[None, :, None]
    engine = MilEngine(save_conv(save, [(indices, lut)], x), precision="fp32", cache_bytes=0)
    np.testing.assert_array_equal(engine.run({"x": x})["result_0"][0, :, 0], dense(indices, lut))


@pytest.mark.parametrize("bits", [3, 6])
def test_units_of_twelve_bits_hold_the_values_in_order(bits):
    packed = RNG.integers(0, 256, 3 * 64, dtype=np.uint8)
    packed.flags.writeable = False
    units = read_units(packed, 12)
    shifts = np.arange(12 // bits) * bits
    found = (units[:, None] >> shifts) & ((1 << bits) - 1)
    np.testing.assert_array_equal(found.reshape(-1), unpack(packed, bits, 0, found.size))
