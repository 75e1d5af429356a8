"""A release that is registered from outside the packages exports, runs, and is compared."""

import json

import numpy as np
import pytest

from export.checkpoint.checkpoint import Checkpoint
from export.cli import main as export_main
from export.releases import RELEASES, load_config
from mobile_runtime.bundle import read_manifest
from mobile_runtime.chat.chat_file import Chat
from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.session import ChatOptions, Session
from tests.mobile_runtime.turns import gradient, user
from tests.random_checkpoint import write_random_checkpoint
from tests.seams.minicpmv_2_6 import MINICPMV_2_6
from validation.chats import NamedChat, default_chats
from validation.parity.parity import ParityOptions, run_parity
from validation.reference.reference import Reference
from validation.sources import open_checkpoint

CONTEXT = 320


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RELEASES, MINICPMV_2_6.key, MINICPMV_2_6)
        yield


@pytest.fixture(scope="module")
def checkpoint(registered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "checkpoint"
    changes = {"head_dim": None, "attention_bias": None, "sliding_window": 131072}
    write_random_checkpoint(folder, version=2.6, **changes)
    return folder


@pytest.fixture(scope="module")
def source(checkpoint):
    return open_checkpoint(str(checkpoint))


def export(checkpoint, output, backend, *flags):
    arguments = [backend, "--checkpoint", str(checkpoint), "--context-length", str(CONTEXT)]
    assert export_main([*arguments, *flags, "--quiet", "--output", str(output)]) == 0
    return next(output.iterdir())


def chats():
    """Those of every release that have no thinking and pack no frames."""
    picture, _, _ = default_chats()
    text = [{"role": "user", "content": "Name three colours."}]
    return [picture, NamedChat("text", Chat(text, PromptOptions(), None, None))]


def test_its_checkpoint_has_biases_and_no_norms_of_heads(checkpoint):
    names = Checkpoint(checkpoint).tensors
    layer = "llm.model.layers.1.self_attn"
    assert {f"{layer}.{name}_proj.bias" for name in "qkv"} <= names.keys()
    assert not [
        name for name in names if "_norm" in name.split("self_attn.")[-1] and "self" in name
    ]
    assert load_config(checkpoint).decoder.head_dim == 64


def test_other_versions_are_still_refused_with_the_known_ones(checkpoint, tmp_path):
    values = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "version": 2.5}))
    with pytest.raises(InputError, match=r"version 2\.5, .*MiniCPM-V 4\.5 .*MiniCPM-V 2\.6"):
        load_config(tmp_path)


def test_the_reference_is_qwen2(source, checkpoint):
    """One layer, written out in numpy."""
    config, read = source.config.decoder, Checkpoint(checkpoint).read
    x = np.random.default_rng(0).standard_normal((5, config.hidden_size)).astype(np.float32)
    reference = Reference(source.config, source.checkpoint)
    (ended,) = reference.run_layers([reference.start(x)], range(1))
    layer = "llm.model.layers.0"

    def w(name):
        return read(f"{layer}.{name}").astype(np.float64)

    def norm(y, name):
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + config.rms_norm_eps) * w(name)

    def rotated(y):
        half = config.head_dim // 2
        angles = np.arange(5)[:, None] * config.rope_theta ** (-np.arange(half) / half)
        first, second = y[..., :half], y[..., half:]
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    h = norm(x, "input_layernorm.weight")
    q, k, v = (
        (h @ w(f"self_attn.{n}_proj.weight").T + w(f"self_attn.{n}_proj.bias")).reshape(5, -1, 64)
        for n in "qkv"
    )
    q, k = rotated(q), rotated(k)
    groups = config.num_heads // config.num_kv_heads
    k, v = k.repeat(groups, 1), v.repeat(groups, 1)
    scores = np.einsum("qhd,khd->hqk", q, k) / 8 + np.triu(np.full((5, 5), -np.inf), 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    attended = np.einsum("hqk,khd->qhd", weights, v).reshape(5, -1)
    y = x + attended @ w("self_attn.o_proj.weight").T
    h = norm(y, "post_attention_layernorm.weight")
    gate = h @ w("mlp.gate_proj.weight").T
    up = h @ w("mlp.up_proj.weight").T
    y = y + (gate / (1 + np.exp(-gate)) * up) @ w("mlp.down_proj.weight").T
    np.testing.assert_allclose(ended.hidden, y, atol=2e-4)


@pytest.mark.parametrize(
    ("backend", "flags"),
    [
        ("coreml", ("--quant", "none")),
        ("coreml", ("--quant", "int4", "--kv-cache", "io")),
        ("onnx", ("--quant", "int4")),
        ("onnx-portable", ("--quant", "none")),
    ],
)
def test_every_stage_equals_pytorch_with_the_same_weights(
    checkpoint, source, tmp_path, backend, flags
):
    bundle = export(checkpoint, tmp_path, backend, *flags)
    assert bundle.name.startswith("minicpmv-2.6-")
    options = ParityOptions(EngineOptions(precision="fp32"), new_tokens=4)
    report = run_parity(bundle, source, chats(), options)
    assert {stage.status for stage in report.stages} == {"passed"}
    if backend == "onnx":
        genai = json.loads((bundle / "genai_config.json").read_text())
        assert genai["model"]["type"] == "qwen2"


def test_it_answers_and_says_what_it_cannot(checkpoint, tmp_path):
    session = Session.load(export(checkpoint, tmp_path, "coreml", "--quant", "int8"))
    manifest = read_manifest(next(tmp_path.iterdir()))
    assert "think_start" not in manifest.prompt.special_tokens
    (resampler,) = manifest.graphs_of("resampler")
    assert [function.name for function in resampler.functions] == ["frames_1"]
    options = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=3)
    messages = [user(gradient(300, 200), "What is this?")]
    prompt = session.prepare(messages, options)
    assert prompt.encoded.text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert "".join(session.chat(messages, options)) is not None
    with pytest.raises(InputError, match="does not think"):
        session.chat(messages, ChatOptions(prompt=PromptOptions(enable_thinking=True)))
