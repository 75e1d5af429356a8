"""Products of compressed matrices in compiled kernels, against numpy on the expanded matrix."""

from __future__ import annotations

import threading
from itertools import count

import numpy as np
import pytest

from mobile_runtime.engines.mil import number_kernels, products, threads
from mobile_runtime.engines.mil.buffers import Results
from mobile_runtime.engines.mil.values import (
    BlockScales,
    ExpandedWeights,
    StoredAffine,
    StoredLut,
    StoredWeight,
)
from mobile_runtime.mlprogram.dtypes import ELEMENT_TYPES

KEYS = count()
RNG = np.random.default_rng(11)
COLUMNS = (1, 3, 7)  # one by one, and in blocks
WIDTH = 512 + 24  # a whole block of every width of indices, and what is left over


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few rows on more threads than there are blocks for."""
    monkeypatch.setattr(products, "_ROWS", 3)
    monkeypatch.setattr(products, "_LEAST_WORK", 1)
    monkeypatch.setattr(products, "_BLOCK_BYTES", 4 * 7 * WIDTH)
    monkeypatch.setattr(threads, "cores", lambda: 3)
    monkeypatch.setattr(products, "cores", lambda: 3)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """The values' bits in a row, least significant first; read-only, as a mapped file is."""
    spread = (codes.reshape(-1, 1).astype(np.uint8) >> np.arange(bits, dtype=np.uint8)) & 1
    packed = np.packbits(spread, bitorder="little")
    packed.flags.writeable = False
    return packed


def stored(codes: np.ndarray, element: str) -> StoredWeight:
    kind = ELEMENT_TYPES[element]
    packed = pack(codes.view(np.uint8), kind.bits)
    return StoredWeight(packed, kind, codes.shape, ("codes", next(KEYS)), ExpandedWeights(0))


def check(weight, expected: np.ndarray) -> None:
    """The weight times columns, each way, and its rows, which are exact."""
    rows, width = expected.shape
    np.testing.assert_array_equal(weight.rows(0, rows).reshape(rows, width), expected)
    for n in COLUMNS:
        columns = RNG.standard_normal((width, n)).astype(np.float32)
        exact = expected.astype(np.float64) @ columns
        scale = np.abs(expected).astype(np.float64) @ np.abs(columns)
        assert np.all(np.abs(products.multiply(weight, columns) - exact) < 1e-5 * scale)
    eye = np.eye(width, dtype=np.float32)  # each result is one of the weights: exact
    np.testing.assert_array_equal(products.multiply(weight, eye), expected)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize(("rows", "per_group"), [(7, 7), (6, 1), (10, 5), (32, 16), (64, 64)])
def test_tables_of_all_widths_and_groups(bits, rows, per_group):
    codes = RNG.integers(0, 1 << bits, (rows, WIDTH)).astype(np.uint8)
    lut = RNG.standard_normal((rows // per_group, 1, 1 << bits)).astype(np.float16)
    weight = StoredLut(stored(codes, f"uint{bits}"), lut, ("lut", next(KEYS)), ExpandedWeights(0))
    assert weight.is_compiled
    group = np.arange(rows)[:, None] // per_group
    check(weight, lut[:, 0].astype(np.float32)[group, codes])


@pytest.mark.parametrize("width", [1, 2, 64, 130])
def test_tables_of_rows_shorter_than_a_block(width):
    codes = RNG.integers(0, 256, (5, width)).astype(np.uint8)
    lut = RNG.standard_normal((1, 1, 256)).astype(np.float32)
    weight = StoredLut(stored(codes, "uint8"), lut, ("lut", next(KEYS)), ExpandedWeights(0))
    check(weight, lut[0, 0][codes])


@pytest.mark.parametrize("case", ["infinities", "columns of nothing"])
def test_table_entries_that_no_index_names_are_not_read(case):
    codes = np.zeros((4, WIDTH), np.uint8)
    lut = np.full((1, 1, 16), np.inf, np.float32)
    lut[..., 0] = 2
    weight = StoredLut(stored(codes, "uint4"), lut, ("lut", next(KEYS)), ExpandedWeights(0))
    columns = np.ones((WIDTH, 1 if case == "infinities" else 0), np.float32)
    assert np.all(products.multiply(weight, columns) == 2 * WIDTH)


def test_halves_of_every_value_are_read_as_numpy_reads_them():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 248)
    packed = halves.reshape(-1).view(np.uint8)
    kind = ELEMENT_TYPES["float16"]
    weight = StoredWeight(packed, kind, halves.shape, "halves", ExpandedWeights(0))
    assert weight.is_compiled
    check(weight, halves.astype(np.float32))


def test_infinite_halves_stay_infinite():
    halves = np.array([np.inf, -np.inf, np.nan, -0.0], np.float16)
    out = np.empty(4, np.float32)
    number_kernels.expand_halves(halves.view(np.uint16), out)
    np.testing.assert_array_equal(out, halves.astype(np.float32))
    assert np.signbit(out[3])


@pytest.mark.parametrize("element", ["int8", "uint8", "int4", "uint4", "uint2", "uint3", "uint6"])
@pytest.mark.parametrize("blocks", [(1, 1), (15, 1), (3, 67), (15, 8)], ids=str)
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("rounds", [False, True])
def test_integers_with_scales_of_blocks(element, blocks, offset, rounds):
    kind = ELEMENT_TYPES[element]
    low = -(1 << kind.bits - 1) if kind.is_signed else 0
    numbers = RNG.integers(low, low + (1 << kind.bits), (15, WIDTH))
    codes = numbers.astype(np.int8 if kind.is_signed else np.uint8)
    scale = RNG.uniform(1e-5, 1, blocks).astype(np.float32)
    zero = RNG.integers(low, low + 3, blocks).astype(codes.dtype) if offset else None
    weight = StoredAffine(
        stored(codes, element), BlockScales(scale, zero), next(KEYS), rounds, ExpandedWeights(0)
    )
    assert weight.is_compiled == (kind.bits in (4, 8))

    def spread(values):
        return np.kron(values, np.ones((15 // blocks[0], WIDTH // blocks[1]), np.float32))

    shifted = numbers.astype(np.float32) - (0 if zero is None else spread(zero))
    expected = shifted * spread(scale)
    check(weight, expected.astype(np.float16).astype(np.float32) if rounds else expected)


def test_a_matrix_of_floats_is_used_as_it_is():
    matrix = RNG.standard_normal((33, 20)).astype(np.float32)
    columns = RNG.standard_normal((20, 5)).astype(np.float32)
    np.testing.assert_allclose(products.multiply(matrix, columns), matrix @ columns, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 20])
def test_products_of_batches_equal_matmul(transposed, rows):
    x = RNG.standard_normal((2, 3, rows, 24)).astype(np.float32)
    y = RNG.standard_normal((2, 3, 40, 24) if transposed else (2, 3, 24, 40)).astype(np.float32)
    y = np.swapaxes(y, -1, -2) if transposed else y
    np.testing.assert_allclose(products.multiply_batch(x, y), x @ y, atol=1e-5)
    one = products.multiply_batch(x, y[:1])
    np.testing.assert_allclose(one, x @ y[:1], atol=1e-5)


def test_blocks_are_done_once_each_by_all_threads():
    done, seen = [], set()
    both = threading.Barrier(3, timeout=20)

    def work(begin, end):
        if begin < 30:
            both.wait()  # three threads at a time, or none goes on
        seen.add(threading.get_ident())
        done.append((begin, end))

    threads.run_blocks(work, 95, 10)
    assert sorted(done) == [(n, min(n + 10, 95)) for n in range(0, 95, 10)]
    assert len(seen) == 3


def test_an_error_in_any_thread_is_raised_when_all_have_ended():
    active = []

    def work(begin, end):
        active.append(begin)
        if begin == 2:
            raise ValueError("block 2")
        active.remove(begin)

    with pytest.raises(ValueError, match="block 2"):
        threads.run_blocks(work, 9, 1)
    assert active == [2]


def test_threads_warn_of_nothing_if_the_caller_does_not(recwarn):
    with np.errstate(all="ignore"):
        threads.run_blocks(lambda begin, end: np.log(np.zeros(1)), 30, 1)
    assert not recwarn.list


def test_blas_has_its_threads_again_afterwards():
    blas = threads._blas()
    if blas._get is None:
        pytest.skip("numpy uses another library than OpenBLAS")
    before = blas._get()
    blas._set(2)
    try:
        found = []
        threads.run_blocks(lambda begin, end: found.append(blas._get()), 6, 1)
        assert set(found) == {1} and blas._get() == 2
    finally:
        blas._set(before)


def test_memory_of_a_result_is_used_again_only_if_nobody_holds_it(monkeypatch):
    monkeypatch.setattr("mobile_runtime.engines.mil.buffers._LARGE", 1)
    results = Results()
    first = results.empty((4, 5))
    view, address = first[1:], first.ctypes.data
    assert results.empty((4, 5)).ctypes.data != address
    del first
    assert results.empty((4, 5)).ctypes.data != address
    del view
    assert results.empty((5, 4)).ctypes.data == address


def test_columns_that_do_not_fit_are_refused_before_a_kernel_reads_them():
    codes = np.zeros((4, WIDTH), np.uint8)
    lut = np.zeros((1, 1, 16), np.float32)
    weight = StoredLut(stored(codes, "uint4"), lut, ("lut", next(KEYS)), ExpandedWeights(0))
    with pytest.raises(ValueError, match=f"{WIDTH + 1} rows"):
        products.multiply(weight, np.zeros((WIDTH + 1, 1), np.float32))
    with pytest.raises(ValueError, match="mismatch"):
        products.multiply_batch(np.zeros((2, 1, 3), "f"), np.zeros((2, 5, 4), "f"))


@pytest.mark.parametrize("shape", [(3, 1, 256), (1, 1, 200), (8, 1, 256)], ids=str)
def test_tables_that_do_not_fit_are_not_given_to_kernels(shape):
    codes = stored(np.zeros((4, WIDTH), np.uint8), "uint8")
    weight = StoredLut(codes, np.zeros(shape, np.float32), next(KEYS), ExpandedWeights(0))
    assert not weight.is_compiled


@pytest.mark.parametrize(("shape", "size"), [((4, 8), 15), ((0, 8), 0), ((4, 0), 0), ((4, 1), 2)])
def test_bytes_that_do_not_fit_are_not_given_to_kernels(shape, size):
    codes = StoredWeight(
        np.zeros(size, np.uint8), ELEMENT_TYPES["uint4"], shape, next(KEYS), ExpandedWeights(0)
    )
    weight = StoredLut(codes, np.zeros((1, 1, 16), np.float32), next(KEYS), ExpandedWeights(0))
    assert not weight.is_compiled


@pytest.mark.parametrize("blocks", [(3, 1), (4, 7), (8, 1), (4,), (4, 1, 1)], ids=str)
def test_scales_that_do_not_fit_are_not_given_to_kernels(blocks):
    codes = stored(np.zeros((4, WIDTH), np.int8), "int8")
    scales = BlockScales(np.ones(blocks, np.float32), None)
    assert not StoredAffine(codes, scales, next(KEYS), False, ExpandedWeights(0)).is_compiled


def test_halves_at_an_odd_address_are_not_given_to_kernels():
    kind, memory = ELEMENT_TYPES["float16"], np.zeros(2 * 6 + 1, np.uint8)
    for first, compiled in ((0, True), (1, False)):
        packed = memory[first : first + 12]
        weight = StoredWeight(packed, kind, (2, 3), next(KEYS), ExpandedWeights(0))
        assert weight.is_compiled == compiled
        assert np.all(products.multiply(weight, np.ones((3, 1), np.float32)) == 0)
