"""GGUF files, as llama.cpp's own library writes and dequantizes them."""

import re
import shutil

import numpy as np
import pytest

from export.checkpoint import open_source
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.gguf import GgufSource
from export.checkpoint.gguf.blocks import BLOCK_TYPES
from export.checkpoint.gguf.file import GgufFile
from export.checkpoint.source import bytes_of, check_tensors, weight_digest
from export.cli import main
from export.releases import describe_model
from mobile_runtime.errors import InputError

gguf = pytest.importorskip("gguf", reason="needs gguf, llama.cpp's library")
Kind = gguf.GGMLQuantizationType
QUANTIZED = {number: kind for number, kind in BLOCK_TYPES.items() if kind.expand is not None}
# By the end of the published name, and how the language model's file stores it.
KINDS = {"q_proj": "Q4_0", "k_proj": "Q4_1", "v_proj": "Q5_0", "o_proj": "Q5_1", "up_proj": "Q8_0"}
LLAMA = {  # published -> llama.cpp, written out from gguf's constants and clip.cpp
    "llm.model.embed_tokens": "token_embd",
    "llm.model.norm": "output_norm",
    "llm.lm_head": "output",
    "llm.model.layers": "blk",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.out_proj": "attn_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.fc1": "ffn_down",
    "mlp.fc2": "ffn_up",
    "vpm.embeddings.patch_embedding": "v.patch_embd",
    "vpm.embeddings.position_embedding": "v.position_embd",
    "vpm.post_layernorm": "v.post_ln",
    "vpm.encoder.layers": "v.blk",
    "layer_norm": "ln",
    "resampler.kv_proj": "resampler.kv",
    "resampler.attn.out_proj": "resampler.attn.out",
}


def random_blocks(kind, count):
    """Any bytes, with float16 scales that are finite."""
    blocks = np.random.default_rng(0).integers(0, 256, (count, kind.size), np.uint8)
    halves = {"Q6_K": [208], "Q3_K": [108], "Q2_K": [80, 82]}.get(kind.name, [0])
    if kind.name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K"):
        halves = [0, 2]
    for at in halves:
        values = np.random.default_rng(at).standard_normal(count).astype(np.float16)
        blocks[:, at : at + 2] = values[:, None].view(np.uint8)
    return blocks


@pytest.mark.parametrize("number", QUANTIZED)
def test_blocks_are_what_the_library_dequantizes(number):
    kind = QUANTIZED[number]
    assert Kind(number).name == kind.name
    assert gguf.GGML_QUANT_SIZES[Kind(number)] == (kind.count, kind.size)
    blocks = random_blocks(kind, 999)
    expected = gguf.quants.dequantize(blocks, Kind(number))
    assert bytes_of(kind.expand(blocks).astype(np.float32)) == bytes_of(expected)


def llama_name(name):
    for published, short in LLAMA.items():
        name = re.sub(rf"(^|\.){re.escape(published)}(?=[.\d])", rf"\g<1>{short}", name)
    return name


def parts(name, values):
    """The tensors that the converter for MiniCPM-V makes of one."""
    if name == "resampler.proj":
        return {"resampler.proj.weight": np.ascontiguousarray(values.T)}
    if name.startswith("resampler.attn.in_proj_"):
        last = name.rsplit("_", 1)[1]
        cut = zip("qkv", np.split(values, 3), strict=True)
        return {f"resampler.attn.{third}.{last}": part for third, part in cut}
    return {llama_name(name): values}


def save(path, architecture, tensors):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc"])
    writer.add_array("clip.vision.image_mean", [0.5, 0.5])
    writer.add_float32("qwen3.rope.freq_base", 1e6)
    for name, (values, kind) in tensors.items():
        raw = kind not in (Kind.F32, Kind.F16)
        writer.add_tensor(name, values, raw_dtype=kind if raw else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stored(name, values):
    """(values in the file, type, values that they stand for)."""
    kind = KINDS.get(name.split(".")[-2]) if name.startswith("llm.") else None
    kind = kind or ("F16" if values.ndim > 1 and not name.startswith("llm.") else "F32")
    if name == "llm.model.embed_tokens.weight":
        kind = "BF16"
    if name.startswith("llm.") and "down_proj" in name:
        block = random_blocks(BLOCK_TYPES[12], values.size // 256)
        data, kind = block.reshape(len(values), -1), "Q4_K"
    elif kind in ("F32", "F16"):
        data = values.astype(kind.lower().replace("f", "float"))
        return data, Kind[kind], data
    else:
        data = gguf.quants.quantize(values.astype(np.float32), Kind[kind])
    return data, Kind[kind], gguf.quants.dequantize(data, Kind[kind])


@pytest.fixture(scope="module")
def converted(random_checkpoint, tmp_path_factory):
    """The random checkpoint as GGUF, and what its tensors stand for."""
    folder = tmp_path_factory.mktemp("gguf") / "checkpoint"
    shutil.copytree(random_checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    published, expected = Checkpoint(random_checkpoint), {}
    files = {"qwen3": {}, "clip": {}}
    for name in published.tensors:
        values = published.read(name)
        data, kind, expected[name] = stored(name, values)
        file = files["qwen3" if name.startswith("llm.") else "clip"]
        if kind in (Kind.F32, Kind.F16):
            file |= {part: (value, kind) for part, value in parts(name, data).items()}
        else:
            file[llama_name(name)] = data, kind
    files["clip"]["resampler.pos_embed_k"] = np.ones((4, 8), np.float32), Kind.F32
    save(folder / "model-mixed.gguf", "qwen3", files["qwen3"])
    save(folder / "mmproj-model-f16.gguf", "clip", files["clip"])
    return folder, expected, files


def test_tensors_are_the_published_ones(random_checkpoint, converted):
    folder, expected, _ = converted
    source = open_source(folder)
    assert isinstance(source, GgufSource)
    described = describe_model(folder)
    shapes = described.release.tensor_shapes(described.config)
    check_tensors(source, shapes, "it", described.release.title)
    assert source.tensors.keys() == Checkpoint(random_checkpoint).tensors.keys()
    for name, values in expected.items():
        found = source.read(name)
        assert found.dtype.name == source.tensors[name].dtype, name
        np.testing.assert_array_equal(found.astype(np.float32), values.astype(np.float32), name)
        count = len(found)
        rows = [source.read_rows(name, n, n + 37) for n in range(0, count, 37)]
        assert bytes_of(np.concatenate(rows)) == bytes_of(found), name


def test_blocks_of_q4_0_come_out_as_they_are(converted):
    source = open_source(converted[0])
    assert {name.split(".")[-2] for name in source.weights} == {"q_proj"}
    name = "llm.model.layers.1.self_attn.q_proj.weight"
    weight = source.read_weight(name, 3, 200)
    assert weight.layout == source.weights[name].layout == ("blocks", 4, 32, True)
    np.testing.assert_array_equal(weight.dequantize(), source.read_rows(name, 3, 200))
    assert source.digest(name, 3, 200) == weight_digest(weight)
    assert source.identity(name) != source.identity("resampler.query")


@pytest.mark.parametrize("backend", ["coreml", "onnx"])
def test_they_are_exported(converted, tmp_path, backend):
    arguments = ["--checkpoint", str(converted[0]), "--quant", "int4-fast", "--quiet"]
    sizes = ["--context-length", "64", "--prefill-length", "4"]
    out = ["--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert main([backend, *arguments, *sizes, *out]) == 0
    assert main([backend, *arguments, *sizes, *out, "--plan"]) == 0


def test_a_file_is_given_by_its_folder(converted, capsys):
    assert main(["coreml", "--checkpoint", str(converted[0] / "model-mixed.gguf")]) == 2
    assert "is a file; give the folder that it lies in" in capsys.readouterr().err


def test_files_that_do_not_belong_are_refused(converted, tmp_path):
    folder, _, files = converted
    other = tmp_path / "checkpoint"

    def said():
        with pytest.raises(InputError) as error:
            describe_model(other)
            open_source(other)
        return str(error.value)

    shutil.copytree(folder, other)
    (other / "mmproj-model-f16.gguf").unlink()
    assert "but no vision file (mmproj); put it beside them" in said()
    shutil.copyfile(folder / "model-mixed.gguf", other / "model-q8.gguf")
    assert "a second time; leave one GGUF file of the language model" in said()
    (other / "model-q8.gguf").unlink()
    save(other / "model-q8.gguf", "llama", files["qwen3"])
    assert "is of architecture 'llama'; read are 'qwen3'" in said()
    save(other / "model-q8.gguf", "clip", {"mm.0.weight": (np.ones((2, 2), "f4"), Kind.F32)})
    assert "holds tensors that this model has not: mm.0.weight" in said()
    (other / "config.json").unlink()
    assert "has no config.json; put the published checkpoint's config.json" in said()


def test_damaged_files_are_refused(converted, tmp_path):
    """Cut anywhere, or with any byte of the header changed, they are refused or read as a file."""
    whole = (converted[0] / "mmproj-model-f16.gguf").read_bytes()
    path = tmp_path / "damaged.gguf"
    header = whole.index(b"resampler.pos_embed_k") + 60
    random = np.random.default_rng(0)
    for length in [0, 3, 4, 20, 60, header // 2, header, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"is truncated or not a GGUF file that is read"):
            GgufFile(path)
    for _ in range(150):
        data = bytearray(whole)
        data[random.integers(header)] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        try:
            tensors = GgufFile(path).tensors
        except InputError:
            continue
        assert all(tensor.octets.size for tensor in tensors.values())


def test_a_type_that_is_not_read_is_named(tmp_path):
    path = tmp_path / "model.gguf"
    blocks = np.zeros((2, 66), np.uint8)
    save(path, "qwen3", {"output.weight": (blocks, Kind.IQ2_XXS)})
    with pytest.raises(InputError, match=r"output.weight is of type 16; read are F32, F16, Q4_0"):
        GgufFile(path)
