"""onnxruntime computes what the published code computes, from the files of an ONNX bundle."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from export.models.tensors import tensor_shapes
from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.engines import EngineOptions
from mobile_runtime.session import ChatOptions, Session
from tests.golden.synthetic import CONFIG, SyntheticWeights
from tests.validation.reference.test_golden import TOLERANCE, messages_of

TOKENIZER = (
    *("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"),
    "special_tokens_map.json",
)


@pytest.fixture(scope="module")
def golden_checkpoint(shared, tmp_path_factory):
    """The golden weights as a checkpoint folder, with the published tokenizer."""
    folder = tmp_path_factory.mktemp("golden") / "checkpoint"
    folder.mkdir()
    for name in TOKENIZER:
        shutil.copyfile(shared / "upstream" / name, folder / name)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    weights = SyntheticWeights()
    names = tensor_shapes(weights.config)
    save_file({name: weights.read(name) for name in names}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module", params=["onnx", "onnx-portable"])
def session(request, golden_checkpoint, make_onnx_bundle):
    """Float32 weights, activations and cache, as nothing else can be compared so closely."""
    bundle = make_onnx_bundle(request.param, "none", checkpoint=golden_checkpoint)
    return Session.load(bundle, EngineOptions(precision="fp32"))


@pytest.fixture(scope="module")
def arrays(shared):
    return np.load(shared / "golden/arrays.npz")


def options_of(entry):
    prompt = PromptOptions(
        enable_thinking=entry.get("enable_thinking", False),
        use_image_id=entry.get("use_image_id"),
        temporal_ids=entry.get("temporal_ids"),
    )
    return ChatOptions(prompt=prompt, max_slice_nums=entry.get("max_slice_nums"))


def largest(actual, expected):
    return float(np.abs(np.asarray(actual) - expected).max())


@pytest.mark.parametrize("n", range(8))
def test_every_golden_prompt_from_its_messages(n, session, arrays, shared):
    entry = json.loads((shared / "golden/prompts.json").read_text(encoding="utf-8"))[n]
    expected = {
        name.removeprefix(f"prompt{n}."): arrays[name]
        for name in arrays.files
        if name.startswith(f"prompt{n}.")
    }
    session.reset()
    prompt = session.prepare(messages_of(entry), options_of(entry))
    assert prompt.encoded.input_ids.tolist() == entry["input_ids"]
    assert prompt.encoded.image_bound.tolist() == entry["image_bound"]
    errors = {}
    embeds = session.image_embeds(prompt)
    if embeds:
        errors["image_embeds"] = largest(np.stack(embeds), expected["vision"])
    logits = session.prefill(prompt)
    errors["top 20"] = largest(logits[expected["top20_ids"]], expected["top20_logits"])
    errors["every 997th"] = largest(logits[::997], expected["last_logits_every_997"])
    tokens = [int(logits.argmax())]
    while len(tokens) < len(entry["greedy_12"]):
        tokens.append(int(session.decode(tokens[-1]).argmax()))
    assert tokens == entry["greedy_12"]
    if len(prompt.keys) <= 120:  # every position's logits; of the longer prompts they are 160 MB
        rows = session.model.decoder.logits_of(session.prompt_embeddings(prompt))
        assert np.array_equal(rows.argmax(-1), expected["argmax"])
        errors["logsumexp"] = largest(torch.from_numpy(rows).logsumexp(-1), expected["logsumexp"])
    assert max(errors.values()) <= TOLERANCE, errors
