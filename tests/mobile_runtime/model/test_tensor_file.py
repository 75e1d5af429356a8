"""Files of arrays: safetensors for every reader, and for ours only if nothing of it was changed."""

import hashlib
import json
import struct

import numpy as np
import pytest
from safetensors import safe_open

from mobile_runtime.errors import InputError
from mobile_runtime.model.tensor_file import open_tensors, write_tensors

WANTED = "a file of this test"
RNG = np.random.default_rng(0)
ARRAYS = {
    "tokens": RNG.integers(-5, 5, (3, 2)).astype(np.int32),
    "exact": RNG.standard_normal((2, 3, 4)).astype(np.float32),
    "half": RNG.standard_normal((5, 7)).astype(np.float16).astype(np.float32),
    "strided": RNG.standard_normal((4, 6, 2)).astype(np.float32)[:, :3],
    "bytes": RNG.integers(0, 256, 13).astype(np.uint8),
    "small": RNG.integers(-128, 128, (2, 2)).astype(np.int8),
    "empty": np.zeros((0, 32), np.uint8),
}
FACTS = {"version": "1", "words": 'ä "quoted" \\ text'}


@pytest.fixture
def path(tmp_path):
    write_tensors(tmp_path / "new" / "some.file", ARRAYS, FACTS)
    return tmp_path / "new" / "some.file"


def read(path):
    with open_tensors(path, WANTED) as file:
        return {n: file.read(n, a.shape, a.dtype.kind) for n, a in ARRAYS.items()}, file.facts


def test_what_is_written_is_read(path):
    arrays, facts = read(path)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert facts.items() >= FACTS.items()
    assert arrays["half"].dtype == np.float16 and arrays["exact"].dtype == np.float32


def test_the_safetensors_library_reads_it(path):
    with safe_open(path, "numpy") as file:
        assert list(file.keys()) == sorted(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
        metadata = file.metadata()
    digest = metadata.pop("digest")
    assert metadata == FACTS
    assert hashlib.sha256(path.read_bytes().split(digest.encode())[1]).hexdigest() == digest


def test_values_beyond_half_precision_keep_theirs(tmp_path):
    values = {"x": np.array([[1e30, 0.1], [-0.0, np.inf]], np.float32)}
    write_tensors(tmp_path / "x", values, {})
    with open_tensors(tmp_path / "x", WANTED) as file:
        np.testing.assert_array_equal(file.read("x", (2, 2), "f"), values["x"])


def test_every_flipped_bit_is_found(path):
    data = path.read_bytes()
    for place in [*range(0, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with pytest.raises(InputError, match=WANTED) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_every_cut_and_every_addition_is_found(path):
    data = path.read_bytes()
    for changed in [*(data[:n] for n in range(0, len(data), 11)), data + b"\0", data + data]:
        path.write_bytes(changed)
        with pytest.raises(InputError, match=f"some.file.*{WANTED}"):
            read(path)


def forged(header, data=b""):
    """A file with the right digest for whatever it says; `header` is text or the rest of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    rest = b'"},' + text.strip()[1:]
    begin = b'{"__metadata__":{"digest":"' + hashlib.sha256(rest + data).hexdigest().encode()
    return struct.pack("<Q", len(begin + rest)) + begin + rest + data


def entry(dtype="F32", shape=(2, 2), offsets=(0, 16)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE = {
    "no json": b"{]",
    "deep": b'{"a":' + b"[" * 100_000,
    "long number": b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,16]}}',
    "not an object": b'{"a":5}',
    "unknown type": {"exact": entry("F99")},
    "objects": {"exact": entry("O")},
    "huge": {"exact": entry(shape=[2**62, 2**62])},
    "huge and empty": {"exact": entry(shape=[2**62, 0], offsets=[0, 0])},
    "beyond integers": {"exact": entry(shape=[2**70])},
    "negative": {"exact": entry(shape=[-2, -2])},
    "fractions": {"exact": entry(shape=[2.0, 2])},
    "truth": {"exact": entry(shape=[True, 4])},
    "many axes": {"exact": entry(shape=[1] * 60 + [4])},
    "begins elsewhere": {"exact": entry(offsets=[-16, 0])},
    "beyond the end": {"exact": entry(shape=[4, 2], offsets=[0, 32])},
    "overlapping": {"exact": entry(), "half": entry()},
    "a gap": {"exact": entry(shape=[1], offsets=[0, 4]), "half": entry(shape=[2], offsets=[8, 16])},
    "nothing": {"exact": entry(shape=[0], offsets=[0, 0])},
    "unknown key": {"exact": entry() | {"strides": [1]}},
    "another shape": {"exact": entry(shape=[4])},
    "another kind": {"exact": entry("I32")},
    "absent": {"half": entry()},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_with_a_right_digest_is_not_trusted(name, tmp_path):
    path = tmp_path / "forged"
    path.write_bytes(forged(HOSTILE[name], bytes(16)))
    with pytest.raises(InputError, match=WANTED) as caught, open_tensors(path, WANTED) as file:
        file.read("exact", (2, 2), "f")
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_the_forger_of_these_tests_can_write_a_good_file(tmp_path):
    (tmp_path / "good").write_bytes(forged({"exact": entry()}, bytes(16)))
    with open_tensors(tmp_path / "good", WANTED) as file:
        assert file.read("exact", (2, -1), "f", most=2).shape == (2, 2)
        with pytest.raises(InputError, match="not of 2 × up to 1"):
            file.read("exact", (2, -1), "f", most=1)


@pytest.mark.parametrize("length", [0, 1, 90, 2**24, 2**63, 2**64 - 1])
def test_a_length_of_the_header_that_is_wrong_is_refused(length, path):
    data = path.read_bytes()
    path.write_bytes(struct.pack("<Q", length) + data[8:])
    with pytest.raises(InputError, match=WANTED):
        read(path)


@pytest.mark.parametrize(("kind", "said"), [("folder", "is a folder"), ("none", "does not exist")])
def test_what_is_no_file_is_refused(kind, said, tmp_path):
    path = tmp_path / "place"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(InputError, match=said), open_tensors(path, WANTED):
        pass
