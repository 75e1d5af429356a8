"""A format that is registered from outside the packages exports, runs, and is compared."""

import numpy as np
import pytest

from export.backends import BACKENDS
from export.cli import main as export_main
from mobile_runtime.bundle import read_manifest
from mobile_runtime.cli import main as run_main
from mobile_runtime.engines import ENGINES, EngineOptions
from mobile_runtime.model.formats import FORMATS
from mobile_runtime.session import ChatOptions, Session
from tests.mobile_runtime.turns import gradient, user
from tests.seams import numpy_format
from validation.chats import default_chats
from validation.parity.parity import ParityOptions, run_parity
from validation.sources import open_checkpoint

CONTEXT = 320


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKENDS, numpy_format.NAME, numpy_format.NumpyBackend())
        patch.setitem(ENGINES, numpy_format.NAME, numpy_format.open_engine)
        patch.setitem(FORMATS, numpy_format.NAME, numpy_format.FORMAT)
        yield


@pytest.fixture(scope="module", params=["state", "io"])
def bundle(request, registered, random_checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("numpy")
    arguments = [numpy_format.NAME, "--quant", "int8", "--kv-cache", request.param, "--quiet"]
    arguments += ["--checkpoint", str(random_checkpoint), "--context-length", str(CONTEXT)]
    assert export_main([*arguments, "--output", str(output)]) == 0
    return next(output.iterdir())


def test_every_stage_equals_pytorch_with_the_same_weights(bundle, random_checkpoint):
    options = ParityOptions(EngineOptions(precision="fp32"), new_tokens=4)
    source = open_checkpoint(str(random_checkpoint))
    report = run_parity(bundle, source, default_chats(), options)
    assert {stage.status for stage in report.stages} == {"passed"}
    assert report.engine == numpy_format.NAME
    stages = {stage.stage: stage for stage in report.stages}
    assert stages["decoder"].same_weights_db > 90 > stages["decoder"].checkpoint_db > 30


def test_it_answers_as_the_core_ml_bundle_with_the_same_weights(bundle, make_bundle):
    """Of unquantized weights the two differ by float16 rounding of the weights only."""
    assert read_manifest(bundle).format == numpy_format.NAME
    options = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=6)
    messages = [user(gradient(300, 200), "What is this?")]
    ours = Session.load(bundle)
    list(ours.chat(messages, options))
    other = Session.load(make_bundle("none", "state", CONTEXT), EngineOptions(precision="fp32"))
    prompts = [session.prepare(messages, options) for session in (ours, other)]
    got, expected = (s.prefill(p) for s, p in zip((ours, other), prompts, strict=True))
    error = np.sqrt(np.mean((got - expected) ** 2))
    assert 20 * np.log10(np.abs(expected).max() / error) > 25
    np.testing.assert_array_equal(ours.fork().prefill(prompts[0]), got)


def test_the_commands_know_it(bundle, capsys):
    assert run_main(["info", str(bundle)]) == 0
    assert f"({numpy_format.NAME})" in capsys.readouterr().out
    assert run_main(["chat", str(bundle), "Hi", "--greedy", "--max-new-tokens", "2"]) == 0
    assert run_main(["chat", str(bundle), "Hi", "--engine", "mil"]) == 2
    assert f"use the engine {numpy_format.NAME}" in capsys.readouterr().err
