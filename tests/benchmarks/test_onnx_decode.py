"""The decoding benchmark: both layouts are one model, bytes a token, which samples count."""

import json
import os

import numpy as np
import onnx
import pytest
from rich.console import Console

from benchmarks import decode_tools
from benchmarks.decode_model import DECODER, write_layouts
from benchmarks.decode_tools import TOOLS, NotInstalledError, bytes_per_token
from benchmarks.llama_cpp import read_tensors, write_gguf
from benchmarks.onnx_decode import build_all, summarize
from benchmarks.quiet import QUIET, Sample, Stopwatch, busy_seconds, choose
from benchmarks.readme import decode_table
from export.cli import main
from mobile_runtime.bundle import read_manifest
from mobile_runtime.engines import EngineOptions
from mobile_runtime.model.formats import open_model

TINY = {
    **DECODER,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "max_window_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "vocab_size": 512,
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders in the published layout and in Hugging Face's."""
    return write_layouts(tmp_path_factory.mktemp("layouts"), TINY)


def export(checkpoint, output, *flags):
    arguments = ["onnx", "--checkpoint", str(checkpoint), "--output", str(output), *flags]
    assert main([*arguments, "--no-cache", "--quiet"]) == 0
    (bundle,) = output.iterdir()
    return bundle


def test_both_layouts_hold_the_same_decoder(checkpoints):
    ours, theirs = (dict(read_tensors(folder / "model.safetensors")) for folder in checkpoints)
    assert {f"llm.{name}" for name in theirs} == {n for n in ours if n.startswith("llm.")}
    for name, values in theirs.items():
        np.testing.assert_array_equal(values, ours[f"llm.{name}"])


def test_both_layouts_give_the_same_logits(checkpoints, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    bundle = export(checkpoints[0], tmp_path, "--quant", "none")
    model = open_model(bundle, read_manifest(bundle), EngineOptions(precision="fp32"))
    ids = np.random.default_rng(0).integers(0, TINY["vocab_size"], 20)
    got = model.decoder.logits_of(model.embedding(ids))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(checkpoints[1], dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)[None]).logits[0].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_gguf_holds_every_tensor(checkpoints, tmp_path):
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(write_gguf(checkpoints[1], tmp_path / "model.gguf"))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    given = dict(read_tensors(checkpoints[1] / "model.safetensors"))
    assert len(tensors) == len(given)
    gate = tensors["blk.1.ffn_gate.weight"]
    values = gguf.quants.dequantize(gate.data, gate.tensor_type)
    expected = given["model.layers.1.mlp.gate_proj.weight"].astype(np.float32)
    scale = np.abs(expected.reshape(-1, 32)).max(1, keepdims=True) / 8  # a step is at most that
    assert np.all(np.abs(values - expected).reshape(-1, 32) <= 1.01 * scale)


def test_bytes_of_a_token_are_those_of_the_graph(checkpoints, tmp_path):
    bundle = export(checkpoints[0], tmp_path, "--quant", "int4-fast", "--override", "lm_head=int4")
    model = onnx.load(bundle / "decoder_model_merged.onnx", load_external_data=False)
    packed = [t for t in model.graph.initializer if t.name.endswith(("/q", "/scale"))]
    sizes = {onnx.TensorProto.UINT8: 1, onnx.TensorProto.FLOAT: 4}
    stored = sum(int(np.prod(t.dims)) * sizes[t.data_type] for t in packed)
    tool = TOOLS["ours, blocks of 32, 8-bit cache"]
    assert bytes_per_token(tool, TINY, 0) == stored
    per_position = bytes_per_token(tool, TINY, 1) - stored
    caches = [v for v in model.graph.input if v.name.startswith("past_key_values")]
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in caches]
    assert per_position == sum(shape[1] * shape[3] for shape in shapes)


def test_the_fastest_quiet_sample_counts():
    quiet, slow = Sample(8, 1.0, 0.0), Sample(8, 2.0, QUIET)
    disturbed = Sample(8, 0.5, 0.5)
    assert choose([slow, disturbed, quiet]) == (quiet, True)


def test_without_a_quiet_sample_the_least_disturbed_is_marked():
    samples = [Sample(8, 1.0, 0.5), Sample(8, 2.0, 0.2)]
    assert choose(samples) == (samples[1], False)


def test_idle_time_is_not_busy():
    line = "cpu  100 20 30 9999 50 1 2 7 0 0\ncpu0 …"
    assert busy_seconds(line) == 160 / os.sysconf("SC_CLK_TCK")
    assert busy_seconds(line.replace("9999", "0")) == busy_seconds(line)


def test_own_work_is_not_that_of_others():
    watch = Stopwatch(alone=True)
    sum(range(100_000))
    assert watch.sample(1).others == 0.0


def test_a_tool_that_is_not_here_is_named_with_the_reason(tmp_path, monkeypatch):
    def missing(*_):
        raise NotInstalledError("no such thing")

    tool = decode_tools.Tool(4.5, 2, missing, missing)
    monkeypatch.setattr("benchmarks.onnx_decode.TOOLS", {"peer": tool})
    (tmp_path / "checkpoints").mkdir()
    models = build_all(tmp_path, ["peer"], 64, Console(quiet=True))
    rows = summarize(models, {}, {})
    assert rows == [{"tool": "peer", "not_run": "no such thing"}]
    assert "not run: no such thing" in decode_table({"rows": rows, "read_bytes_per_second": {}})


def test_the_table_marks_what_was_disturbed():
    row = {"tool": "ours", "threads": 2, "context": 512, "decode": 40.0, "prefill": 100.0}
    row |= {"decode_quiet": False, "prefill_quiet": True, "share_of_bound": 0.5}
    table = decode_table(json.loads(json.dumps({"rows": [row]})))
    assert "| ours | 2 | 512 | 40.0 * | 50 % | 100 |" in table
