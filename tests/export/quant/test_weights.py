"""The storage forms: packing as Core ML's weight blob has it, dequantization, sizes."""

import numpy as np
import pytest

from export.quant.recipe import QuantSpec
from export.quant.weights import (
    BlockWeight,
    DenseWeight,
    LutWeight,
    RowWeight,
    pack_indices,
    packed_size,
    unpack_indices,
)
from mobile_runtime.errors import InputError

ALL_BITS = tuple(range(1, 9))


def lut_weight(rows: int, columns: int, bits: int, group_size: int) -> tuple[LutWeight, np.ndarray]:
    """A random weight and its dense values, looked up element by element."""
    random = np.random.default_rng(rows * columns + bits)
    indices = random.integers(0, 1 << bits, (rows, columns), dtype=np.uint8)
    lut = random.normal(size=(rows // group_size, 1 << bits)).astype(np.float16)
    dense = np.empty((rows, columns), np.float32)
    for r in range(rows):
        for c in range(columns):
            dense[r, c] = lut[r // group_size, indices[r, c]]
    weight = LutWeight(pack_indices(indices, bits), lut, bits, group_size, (rows, columns))
    return weight, dense


def test_first_index_takes_the_lowest_bits_of_the_first_byte() -> None:
    assert pack_indices(np.array([1, 2, 3]), 4).tolist() == [0x21, 0x03]
    assert pack_indices(np.array([5, 3, 7]), 3).tolist() == [0b11_011_101, 0b1]


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 1001])
def test_stream_is_the_bits_of_the_indices_one_after_another(bits: int, count: int) -> None:
    indices = np.random.default_rng(count).integers(0, 1 << bits, count, dtype=np.uint8)
    number = sum(int(index) << (bits * place) for place, index in enumerate(indices))
    packed = pack_indices(indices, bits)
    assert packed.tobytes() == number.to_bytes(packed_size(count, bits), "little")
    np.testing.assert_array_equal(unpack_indices(packed, bits, count), indices)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("count", [64, 65, 99])
def test_stream_equals_coremltools_weight_blob(bits: int, count: int, tmp_path) -> None:
    storage = pytest.importorskip("coremltools.libmilstoragepython")
    indices = np.random.default_rng(bits).integers(0, 1 << bits, count, dtype=np.uint8)
    writer = storage._BlobStorageWriter(str(tmp_path / "weight.bin"))
    offset = getattr(writer, f"write_uint{bits}_data")(indices)
    del writer
    blob = (tmp_path / "weight.bin").read_bytes()
    # The 64-byte record at `offset` holds the data's own offset in its bytes 16 … 23.
    start = int.from_bytes(blob[offset + 16 : offset + 24], "little")
    packed = pack_indices(indices, bits)
    assert blob[start : start + packed.size] == packed.tobytes()


@pytest.mark.parametrize("indices", [[16], [-1], [0, 300]])
def test_index_outside_the_bits_is_refused(indices: list[int]) -> None:
    with pytest.raises(InputError, match="do not fit 4 bits"):
        pack_indices(np.array(indices), 4)


@pytest.mark.parametrize("bits", [0, 9])
def test_impossible_width_is_refused(bits: int) -> None:
    with pytest.raises(InputError, match="use 1 to 8"):
        pack_indices(np.array([0]), bits)


def test_short_stream_is_refused() -> None:
    with pytest.raises(InputError, match="give 4 bytes"):
        unpack_indices(np.zeros(3, np.uint8), 3, 10)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize(("rows", "columns", "group_size"), [(6, 5, 2), (4, 16, 4), (3, 1, 1)])
def test_lut_weight_expands_whole_and_in_blocks(
    bits: int, rows: int, columns: int, group_size: int
) -> None:
    weight, dense = lut_weight(rows, columns, bits, group_size)
    np.testing.assert_array_equal(weight.dequantize(), dense)
    assert weight.dequantize().dtype == np.float32
    for begin in range(rows + 1):
        for end in range(begin, rows + 1):
            np.testing.assert_array_equal(weight.rows(begin, end), dense[begin:end])


def test_lut_weight_with_a_wrong_table_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit 6 rows in groups of 4"):
        LutWeight(np.zeros(6, np.uint8), np.zeros((1, 16), np.float16), 4, 4, (6, 2))


def test_lut_weight_with_wrong_indices_is_refused() -> None:
    with pytest.raises(InputError, match="do not fit a weight of 4 × 2"):
        LutWeight(np.zeros(5, np.uint8), np.zeros((1, 16), np.float16), 4, 4, (4, 2))


def test_row_weight() -> None:
    q = np.array([[1, -2, 3], [127, 0, -127]], np.int8)
    scale = np.array([[0.5], [2.0]], np.float16)
    weight = RowWeight(q, scale, None, 8)
    expected = [[0.5, -1.0, 1.5], [254.0, 0.0, -254.0]]
    assert weight.dequantize().tolist() == expected
    assert weight.rows(1, 2).tolist() == expected[1:]
    assert weight.rows(1, 1).shape == (0, 3)


def test_block_weight_with_offsets() -> None:
    q = np.array([[0, 1, 2, 3]], np.int8)
    scale = np.array([[1.0, 0.25]], np.float16)
    weight = BlockWeight(q, scale, np.array([[-1.125, 0.5]], np.float32), 4)
    assert weight.dequantize().tolist() == [[-1.125, -0.125, 1.0, 1.25]]


def test_weight_with_wrong_scales_is_refused() -> None:
    with pytest.raises(InputError, match="scales of shape"):
        BlockWeight(np.zeros((2, 6), np.int8), np.ones((2, 4), np.float16), None, 8)
    with pytest.raises(InputError, match="offsets of shape"):
        BlockWeight(
            np.zeros((2, 6), np.int8), np.ones((2, 3), np.float16), np.zeros((2, 1), np.float32), 8
        )


def test_dense_weight_returns_its_values() -> None:
    values = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    weight = DenseWeight(values)
    assert weight.shape == (2, 3, 4)
    np.testing.assert_array_equal(weight.dequantize(), values.astype(np.float32))
    np.testing.assert_array_equal(weight.rows(1, 2), values[1:].astype(np.float32))


def test_stored_bytes_are_those_of_the_arrays() -> None:
    """Of a lookup table, rows, blocks with and without offsets, and floats of any rank."""
    lut, _ = lut_weight(32, 10, 6, 8)
    rows = RowWeight(np.zeros((32, 10), np.int8), np.ones((32, 1), np.float16), None, 8)
    q, scale = np.zeros((32, 10), np.int8), np.ones((32, 2), np.float32)
    for weight, arrays in (
        (lut, [lut.packed, lut.lut]),
        (rows, [rows.q, rows.scale]),
        (BlockWeight(q, scale, None, 8), [q, scale]),
        (BlockWeight(q, scale, scale, 8), [q, scale, scale]),
        (DenseWeight(np.zeros((2, 3, 4), np.float16)), [np.zeros(24, np.float16)]),
    ):
        spec = QuantSpec(*weight.layout)
        assert spec.layout == weight.layout
        assert spec.stored_bytes(weight.shape) == sum(array.nbytes for array in arrays)


@pytest.mark.parametrize("rows", [32, 48])
def test_padding_appends_zeros_and_changes_nothing_else(rows: int) -> None:
    lut, _ = lut_weight(32, 10, 3, 16)
    random = np.random.default_rng(0)
    q = random.integers(-8, 8, (32, 10)).astype(np.int8)
    scale = random.random((32, 2)).astype(np.float32)
    for weight in (
        lut,
        RowWeight(q, scale[:, :1].astype(np.float16), None, 4),
        BlockWeight(q, scale, scale, 4),
        DenseWeight(random.random((32, 10)).astype(np.float16)),
    ):
        padded = weight.padded(rows)
        assert padded.layout == weight.layout and padded.shape == (rows, 10)
        np.testing.assert_array_equal(padded.rows(0, 32), weight.dequantize())
        assert not padded.rows(32, rows).any()
