"""The weight file: coremltools' own reader finds every tensor at the offset that we return."""

import struct

import numpy as np
import pytest

from export.backends.coreml.blob import DATA_TYPES, BlobWriter
from export.quant.weights import pack_indices

storage = pytest.importorskip("coremltools.libmilstoragepython")


def write(path, *tensors):
    with BlobWriter(path) as writer:
        return [writer.append(*tensor) for tensor in tensors]


@pytest.mark.parametrize(
    ("values", "data_type", "read"),
    [
        (np.arange(7, dtype=np.float16), "float16", "read_fp16_data"),
        (np.arange(5, dtype=np.float32), "float32", "read_float_data"),
        (np.arange(-3, 4, dtype=np.int8), "int8", "read_int8_data"),
        (np.arange(9, dtype=np.uint8), "uint8", "read_uint8_data"),
    ],
)
def test_whole_bytes_are_read_back(tmp_path, values, data_type, read):
    path = tmp_path / "weight.bin"
    filler = np.ones(33, np.float16), "float16"
    _, offset, _ = write(path, filler, (values, data_type), filler)
    given = getattr(storage._BlobStorageReader(str(path)), read)(offset)
    np.testing.assert_array_equal(np.asarray(given).view(values.dtype), values)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("count", [64, 61, 1])
def test_packed_indices_are_read_back(tmp_path, bits, count):
    indices = np.random.default_rng(bits).integers(0, 1 << bits, count, dtype=np.uint8)
    packed = pack_indices(indices, bits)
    path = tmp_path / "weight.bin"
    (offset,) = write(path, (packed, f"uint{bits}", 8 * packed.size - count * bits))
    given = getattr(storage._BlobStorageReader(str(path)), f"read_uint{bits}_data")(offset)
    np.testing.assert_array_equal(np.asarray(given), indices)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_file_is_the_one_that_coremltools_writes(tmp_path, bits):
    indices = np.random.default_rng(bits).integers(0, 1 << bits, 77, dtype=np.uint8)
    table = np.arange(1 << bits, dtype=np.float16)
    packed = pack_indices(indices, bits)
    ours, theirs = tmp_path / "ours.bin", tmp_path / "theirs.bin"
    padding = 8 * packed.size - 77 * bits
    offsets = write(ours, (packed, f"uint{bits}", padding), (table, "float16"))
    writer = storage._BlobStorageWriter(str(theirs))
    expected = [
        getattr(writer, f"write_uint{bits}_data")(indices),
        writer.write_fp16_data(table.view(np.uint16)),
    ]
    del writer
    assert offsets == expected
    length = theirs.stat().st_size  # theirs does not fill up the last 64 bytes
    assert ours.read_bytes()[:length] == theirs.read_bytes()
    assert not ours.read_bytes()[length:].strip(b"\0")


def test_everything_is_aligned_to_64_bytes(tmp_path):
    path = tmp_path / "weight.bin"
    offsets = write(path, *[(np.ones(n, np.int8), "int8") for n in (1, 63, 64, 65)])
    content = path.read_bytes()
    assert offsets == [64, 192, 320, 448]
    assert len(content) % 64 == 0
    for offset, size in zip(offsets, (1, 63, 64, 65), strict=True):
        entry = struct.unpack_from("<IIQQQ", content, offset)
        assert entry == (0xDEADBEEF, 4, size, offset + 64, 0)


def test_header_counts_the_tensors(tmp_path):
    path = tmp_path / "weight.bin"
    write(path, *[(np.ones(2, np.float16), "float16")] * 5)
    assert struct.unpack_from("<II", path.read_bytes()) == (5, 2)


def test_array_in_another_order_is_written_in_c_order(tmp_path):
    path = tmp_path / "weight.bin"
    values = np.arange(6, dtype=np.float16).reshape(2, 3).T
    (offset,) = write(path, (values, "float16"))
    given = storage._BlobStorageReader(str(path)).read_fp16_data(offset)
    np.testing.assert_array_equal(np.asarray(given).view(np.float16), [0, 3, 1, 4, 2, 5])


def test_file_of_a_failed_export_is_never_valid(tmp_path):
    path = tmp_path / "weight.bin"
    with pytest.raises(RuntimeError, match="stop"), BlobWriter(path) as writer:
        writer.append(np.ones(2, np.float16), "float16")
        raise RuntimeError("stop")
    assert path.read_bytes()[:64] == bytes(64)


def test_type_codes_differ():
    assert len(set(DATA_TYPES.values())) == len(DATA_TYPES)
