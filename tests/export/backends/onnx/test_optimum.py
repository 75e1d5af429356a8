"""The text model in optimum, in an environment of its own: the page's program gives the session's
tokens."""

import json
import os
import subprocess

import numpy as np
import pytest

from export.cli import main as export
from mobile_runtime.session import Session
from tests.docs.pages import blocks
from tests.paths import ROOT

PYTHON = ROOT / ".build/environments/optimum/bin/python"
NEW_TOKENS = 12


@pytest.fixture(scope="module", params=["int8", "float32"])
def bundle(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimum")
    flags = ["--quant", "int4-fast", "--output", str(folder), "--quiet"]
    assert export(["onnx", *flags, "--kv-cache", request.param]) == 0
    return next(folder.iterdir())


@pytest.mark.skipif(
    not PYTHON.exists(), reason="optimum-onnx wants an environment of its own: make optimum"
)
def test_the_program_of_the_page_writes_the_session_s_tokens(bundle, tmp_path):
    page = blocks(ROOT / "docs/transformers.md")
    (program,) = (block.body for block in page if block.reason == "needs optimum")
    own = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [PYTHON, "-c", program, bundle],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    session = Session.load(bundle)
    question = "What is 2 + 2?"
    prompt = session.prepare([{"role": "user", "content": question}])
    assert question in program
    logits, tokens = session.prefill(prompt), []
    while len(tokens) < NEW_TOKENS:
        tokens.append(int(np.argmax(logits)))
        if tokens[-1] in session.manifest.prompt.stop_token_ids:
            break
        logits = session.decode(tokens[-1])
    assert json.loads(done.stdout.splitlines()[-1]) == tokens


def test_config_json_is_the_checkpoint_s(make_onnx_bundle, random_checkpoint):
    given = json.loads((random_checkpoint / "config.json").read_text())
    found = json.loads((make_onnx_bundle() / "config.json").read_text())
    assert found["model_type"] == "qwen3"
    names = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"}
    names |= {"num_attention_heads", "num_key_value_heads", "rope_theta", "tie_word_embeddings"}
    assert {name: found[name] for name in names} == {name: given[name] for name in names}
    assert not (make_onnx_bundle("onnx-portable") / "config.json").exists()
