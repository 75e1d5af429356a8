"""Checkpoints of other tools' quantization: matrices that the tools made, against what they
dequantize them to, and a slow reading of their layouts element by element."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from export.checkpoint import open_source
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.quantized import QuantizedSource
from export.checkpoint.shards import DTYPES, PACKED_DTYPES, Shard
from export.checkpoint.source import bytes_of, weight_digest
from export.quant.weights import BlockWeight
from export.releases import describe_model, read_config
from mobile_runtime.errors import InputError

FOLDER = Path(__file__).parent / "quantized"  # written by write_quantized.py, with the tools
KINDS = json.loads((FOLDER / "quantized.json").read_text(encoding="utf-8"))["kinds"]
MODULE = "llm.model.layers.1.self_attn.k_proj"
NAME = f"{MODULE}.weight"
OTHER = "llm.model.layers.0.self_attn.k_proj.weight"
# The grids that onnxruntime multiplies as they are: columns in a block, and whether zero is 8.
BLOCKS = {
    "gptq-sym": (128, True),
    "gptq-asym": (32, False),
    "awq": (128, False),
    "awq-32": (32, False),
    "packed-sym": (128, True),
    "packed-asym": (32, False),
}


def load_file(path):
    """Its tensors. (The library's own function has no floats of eight bits.)"""
    shard = Shard(path, DTYPES | PACKED_DTYPES)
    return {name: np.array(shard.read(name)) for name in shard.tensors}


def quantized(checkpoint, folder, kind, config=None, parts=None):
    """The random checkpoint with one matrix as a tool quantized it."""
    shutil.copytree(checkpoint, folder)
    path = folder / "config.json"
    given = KINDS[kind]["config"] | (config or {})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": given}))
    tensors = load_file(folder / "model.safetensors")
    del tensors[NAME]
    file = load_file(FOLDER / f"{kind}.safetensors")
    save_file(tensors | (file if parts is None else parts(file)), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def opened(random_checkpoint, tmp_path_factory):
    """opened(kind) -> its source."""
    sources = {}

    def make(kind):
        if kind not in sources:
            folder = tmp_path_factory.mktemp("quantized") / kind
            sources[kind] = open_source(quantized(random_checkpoint, folder, kind))
        return sources[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_is_what_its_tool_dequantizes(random_checkpoint, opened, kind):
    """To the bit, and near the matrix that was quantized."""
    source, published = opened(kind), Checkpoint(random_checkpoint)
    assert isinstance(source, QuantizedSource)
    found = source.read(NAME)
    assert found.dtype.name == KINDS[kind]["dtype"] == source.tensors[NAME].dtype
    assert hashlib.sha256(bytes_of(found)).hexdigest() == KINDS[kind]["sha256"]
    before = published.read(NAME).astype(np.float64)
    error = np.linalg.norm(found.astype(np.float64) - before) / np.linalg.norm(before)
    assert error < (0.02 if "8" in kind and "float8" not in kind and kind != "fp8" else 0.15)
    names = {name: info.shape for name, info in source.tensors.items()}
    assert names == {name: info.shape for name, info in published.tensors.items()}
    assert bytes_of(source.read(OTHER)) == bytes_of(published.read(OTHER))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_whole(opened, kind):
    source = opened(kind)
    whole = source.read(NAME)
    for begin, end in [(0, 1), (1, 2), (3, 17), (7, 64), (60, 128), (100, 999), (128, 130)]:
        assert bytes_of(source.read_rows(NAME, begin, end)) == bytes_of(whole[begin:end])
        if NAME in source.weights:
            rows = source.read_weight(NAME, begin, end).dequantize()
            np.testing.assert_array_equal(rows.astype(whole.dtype), whole[begin:end])
    if NAME not in source.weights:
        digest = hashlib.sha256(bytes_of(whole[5:50])).hexdigest()
        assert source.digest(NAME, 5, 50) == digest


@pytest.mark.parametrize("kind", KINDS)
def test_grids_that_fit_come_out_as_blocks(opened, kind):
    """With the same integers, scales and zero points."""
    source = opened(kind)
    assert source.weights.keys() == ({NAME} if kind in BLOCKS else set())
    if kind not in BLOCKS:
        return
    size, symmetric = BLOCKS[kind]
    assert source.weights[NAME].layout == ("blocks", 4, size, symmetric)
    weight = source.read_weight(NAME, 0, 128)
    assert isinstance(weight, BlockWeight) and weight.layout == source.weights[NAME].layout
    assert source.digest(NAME, 0, 128) == weight_digest(weight)
    integers, scales, zeros = slowly(load_file(FOLDER / f"{kind}.safetensors"), kind)
    np.testing.assert_array_equal(weight.q.astype(int) + 8, integers)
    np.testing.assert_array_equal(weight.scale, scales)
    offset = 0 if weight.offset is None else weight.offset
    np.testing.assert_array_equal((8 - zeros) * scales, offset)


def slowly(file, kind):
    """Integers (rows, columns), scales and zero points (rows, groups), one by one."""
    parts = {name.removeprefix(f"{MODULE}."): tensor for name, tensor in file.items()}
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # of the outputs in a word of AWQ

    def field(words, index, place):
        return int(words[index]) >> (4 * place) & 15

    if kind.startswith("packed"):
        (rows, columns), scales = parts["weight_shape"], parts["weight_scale"].astype(np.float32)
        packed, zero = parts["weight_packed"], parts.get("weight_zero_point")
        get = lambda r, c: field(packed, (r, c // 8), c % 8)  # noqa: E731
        of_zero = lambda r, g: 8 if zero is None else field(zero, (r // 8, g), r % 8)  # noqa: E731
    else:
        scales = parts["scales"].T.astype(np.float32)
        rows, packed, zero = len(scales), parts["qweight"], parts["qzeros"]
        if kind.startswith("awq"):
            columns = len(packed)
            get = lambda r, c: field(packed, (c, r // 8), order.index(r % 8))  # noqa: E731
            of_zero = lambda r, g: field(zero, (g, r // 8), order.index(r % 8))  # noqa: E731
        else:
            columns = 8 * len(packed)
            get = lambda r, c: field(packed, (c // 8, r), c % 8)  # noqa: E731
            of_zero = lambda r, g: field(zero, (g, r // 8), r % 8) + 1  # noqa: E731
    integers = [[get(r, c) for c in range(columns)] for r in range(rows)]
    zeros = [[of_zero(r, g) for g in range(scales.shape[1])] for r in range(rows)]
    return np.array(integers), scales, np.array(zeros)


def test_what_a_matrix_is_made_from_is_its_identity(random_checkpoint, tmp_path):
    folder = quantized(random_checkpoint, tmp_path / "checkpoint", "gptq-asym")
    source = open_source(folder)
    assert source.identity(NAME)[:4] == source.identity(OTHER)
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"gptq"}', '"gptq_v2"}'))
    other = open_source(folder)
    assert other.identity(NAME) != source.identity(NAME)
    assert other.identity(OTHER) == source.identity(OTHER)
    assert other.digest(NAME, 0, 128) != source.digest(NAME, 0, 128)


def test_zero_points_of_the_first_format_are_summed_by_words(random_checkpoint, tmp_path):
    """A zero point of 16, stored as 15, carries into the next one, as in gptqmodel."""

    def changed(file):
        zeros = file[f"{MODULE}.qzeros"]
        zeros[:] = 0x77777777
        zeros[0, 0] = 0x7777777F
        return file

    folder = quantized(random_checkpoint, tmp_path / "checkpoint", "gptq-asym", parts=changed)
    file = load_file(FOLDER / "gptq-asym.safetensors")
    integers, scales, _ = slowly(file, "gptq-asym")
    zeros = np.full(scales.shape, 8)
    zeros[0, 0], zeros[1, 0] = 0, 9
    expected = (integers - np.repeat(zeros, 32, axis=1)) * np.repeat(scales, 32, axis=1)
    np.testing.assert_array_equal(open_source(folder).read(NAME), expected.astype(np.float16))


def test_the_model_is_described_without_the_quantization(random_checkpoint, tmp_path):
    folder = quantized(random_checkpoint, tmp_path / "checkpoint", "awq")
    assert read_config(folder) == read_config(random_checkpoint)
    assert describe_model(folder).config == describe_model(random_checkpoint).config


def test_scales_of_activations_and_of_a_cache_change_no_weight(random_checkpoint, tmp_path):
    names = (f"{MODULE}.input_scale", "llm.model.layers.1.self_attn.k_scale")
    scales = {name: np.ones(1, np.float32) for name in names}
    folder = tmp_path / "checkpoint"
    source = open_source(
        quantized(random_checkpoint, folder, "float8-row", parts=lambda file: file | scales)
    )
    assert source.tensors.keys() == Checkpoint(random_checkpoint).tensors.keys()
    digest = hashlib.sha256(bytes_of(source.read(NAME))).hexdigest()
    assert digest == KINDS["float8-row"]["sha256"]


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("awq", {"quant_method": "hqq"}, "says quant_method 'hqq', which is not read; read are"),
        ("awq", {"quant_method": ["awq"]}, "which is not read"),
        ("awq", {"version": "gemv"}, "version 'gemv' of quant_method 'awq'; read are 'gemm'"),
        ("awq", {"bits": 3}, "says bits '3' of quant_method 'awq'; read are 4"),
        ("gptq-sym", {"bits": 2}, "says bits '2' of quant_method 'gptq'; read are 4, 8"),
        ("gptq-sym", {"checkpoint_format": "marlin"}, "read are 'gptq', 'gptq_v2'"),
        ("nf4", {"bnb_4bit_quant_type": "int4"}, "read are 'nf4', 'fp4'"),
        ("nf4", {"load_in_4bit": False}, "load_in_4bit or load_in_8bit 'None'"),
        ("fp8", {"scale_fmt": "ue8m0"}, "says scale_fmt 'ue8m0'"),
        ("fp8", {"weight_block_size": [0, 128]}, "says weight_block_size '[0, 128]'"),
        ("packed-sym", {"format": "nvfp4-pack-quantized"}, "says format 'nvfp4-pack-quantized'"),
        ("packed-sym", {"quantization_status": "frozen"}, "says quantization_status 'frozen'"),
        ("packed-sym", {"transform_config": {"config_groups": {"a": 1}}}, "says transform_config"),
        ("packed-sym", {"sparsity_config": {"format": "sparse-24"}}, "says sparsity_config"),
        (
            "packed-sym",
            {"config_groups": {"a": {"weights": {"num_bits": 4, "type": "float"}}}},
            "says weights 'float4' of quant_method 'compressed-tensors'; read are 'int4', 'int8'",
        ),
    ],
)
def test_kinds_that_are_not_read_are_refused_by_name(
    random_checkpoint, tmp_path, kind, config, said
):
    folder = quantized(random_checkpoint, tmp_path / "checkpoint", kind, config)
    with pytest.raises(InputError) as error:
        describe_model(folder)
    assert said in str(error.value) and str(error.value).count(". ") == 0


def without(part):
    return lambda file: {n: t for n, t in file.items() if n != f"{MODULE}.{part}"}


def with_(part, change):
    return lambda file: file | {f"{MODULE}.{part}": change(file[f"{MODULE}.{part}"])}


def state(**changes):
    def change(tensor):
        values = json.loads(tensor.tobytes()) | changes
        return np.frombuffer(json.dumps(values).encode(), np.uint8)

    return with_("weight.quant_state.bitsandbytes__nf4", change)


@pytest.mark.parametrize(
    ("kind", "parts", "said"),
    [
        ("gptq-sym", without("scales"), "k_proj.qweight without scales of the same matrix"),
        ("gptq-sym", without("qweight"), "but it holds numbers of no matrix with qweight"),
        ("gptq-sym", with_("g_idx", lambda t: t + 1), "a g_idx that is not of its groups"),
        ("gptq-sym", with_("g_idx", lambda t: t[:-8]), "bits other than 4 and 8"),
        ("gptq-sym", with_("scales", lambda t: t[:, :-8]), "the parts do not fit each other"),
        ("gptq-sym", with_("scales", lambda t: t.view(np.int16).astype("i4")), "is int32, not"),
        ("awq", with_("qzeros", lambda t: t[:-1]), "the parts do not fit each other"),
        ("awq", with_("qweight", lambda t: t.view("i1")), "the qweight is int8, not int32"),
        ("packed-asym", with_("weight_shape", lambda t: t * 0), "the parts do not fit"),
        ("packed-asym", with_("weight_zero_point", lambda t: t[1:]), "the parts do not fit"),
        ("float8-row", with_("weight_scale", lambda t: t[:3]), "the parts do not fit each other"),
        ("fp8", without("weight_scale_inv"), "no matrix with weight_scale_inv or weight_scale"),
        ("fp8", with_("weight_scale_inv", lambda t: t[:, :0]), "the parts do not fit each other"),
        ("nf4", state(blocksize=0), "the recorded state is damaged"),
        ("nf4", state(shape=[128]), "the recorded state is damaged"),
        ("nf4", state(shape=[64, 256]), "the parts do not fit each other"),
        ("nf4", state(nested_offset="x"), "the recorded state is damaged"),
        ("nf4", with_("weight.nested_absmax", lambda t: t[1:]), "the recorded state is damaged"),
        ("nf4", without("weight.quant_state.bitsandbytes__nf4"), "no quant_state"),
        ("int8", with_("SCB", lambda t: t[1:]), "the parts do not fit each other"),
        (
            "int8",
            with_("weight_format", lambda t: np.array(1, np.uint8)),
            "an order of int8 for one kind of GPU",
        ),
    ],
)
def test_damaged_matrices_are_refused(random_checkpoint, tmp_path, kind, parts, said):
    folder = quantized(random_checkpoint, tmp_path / "checkpoint", kind, parts=parts)
    with pytest.raises(InputError) as error:
        open_source(folder)
    assert said in str(error.value)
