"""The text model of an ONNX bundle, as programs run it that know nothing of this project."""

import json

import numpy as np
import onnxruntime as ort
import pytest

from export.cli import main
from mobile_runtime.engines import EngineOptions
from mobile_runtime.session import Session

NEW_TOKENS = 12
MESSAGES = [{"role": "user", "content": "How many shapes are there? 3 RED STARS"}]


@pytest.fixture(scope="module", params=["onnx", "onnx --kv-cache float32", "onnx-portable"])
def bundle(request, tmp_path_factory):
    output = tmp_path_factory.mktemp("text")
    arguments = [*request.param.split(), "--output", str(output), "--no-cache", "--quiet"]
    assert main(arguments) == 0
    (folder,) = output.iterdir()
    return folder


@pytest.fixture(scope="module")
def expected(bundle):
    """Prompt ids and the tokens that the session writes greedily, without an end."""
    session = Session.load(bundle, EngineOptions())
    prompt = session.prepare(MESSAGES)
    logits, tokens = session.prefill(prompt), []
    for _ in range(NEW_TOKENS):
        tokens.append(int(logits.argmax()))
        logits = session.decode(tokens[-1])
    return prompt.encoded.input_ids.astype(np.int64), tokens


def test_plain_onnxruntime_with_a_growing_cache(bundle, expected):
    """As optimum drives a decoder: past grows by what was present; nothing is shared."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    if manifest["format"] == "onnx-portable":
        pytest.skip("standard operations scatter into a cache of fixed length")
    model = ort.InferenceSession(bundle / "model.onnx")
    names = {value.name for value in model.get_inputs()}
    cached = sorted(name for name in names if name.startswith("past_key_values."))
    layers, sizes = manifest["architecture"]["num_layers"], manifest["architecture"]
    assert names == {"input_ids", "attention_mask", *cached} and len(cached) == 2 * layers
    assert {v.name for v in model.get_outputs()} == {
        "logits",
        *(name.replace("past_key_values", "present") for name in cached),
    }
    dtype = np.int8 if manifest["decoding"]["kv_cache"] == "int8" else np.float32
    empty = np.zeros((1, sizes["num_key_value_heads"], 0, sizes["head_dim"]), dtype)
    past = dict.fromkeys(cached, empty)
    ids, tokens = expected
    step, filled, written = ids[None], len(ids), []
    for _ in range(NEW_TOKENS):
        feeds = {"input_ids": step, "attention_mask": np.ones((1, filled), np.int64), **past}
        found = dict(
            zip([v.name for v in model.get_outputs()], model.run(None, feeds), strict=True)
        )
        written.append(int(found["logits"][0, -1].argmax()))
        past = {name: found[name.replace("past_key_values", "present")] for name in cached}
        assert past[cached[0]].shape[2] == filled
        step, filled = np.array([[written[-1]]], np.int64), filled + 1
    assert written == tokens


def test_onnxruntime_genai_writes_the_same_tokens(bundle, expected):
    genai = pytest.importorskip("onnxruntime_genai")
    ids, tokens = expected
    stop = json.loads((bundle / "manifest.json").read_text())["prompt"]["stop_token_ids"]
    ends = [n for n, token in enumerate(tokens) if token in stop]
    wanted = tokens[: ends[0] + 1] if ends else tokens
    model = genai.Model(str(bundle))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=len(ids) + NEW_TOKENS)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(ids.astype(np.int32)[None])
    written = []
    while not generator.is_done():
        generator.generate_next_token()
        written.append(int(generator.get_next_tokens()[0]))
    assert written == wanted


def test_genai_and_the_bundle_share_the_tokenizer(bundle):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (bundle / name).read_bytes() == (bundle / "tokenizer" / name).read_bytes()
