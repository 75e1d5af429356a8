"""A task of lmms-eval on the default model, in the harness's own environment: the score is that of
the session's answers, and a run that was stopped ends in the same samples."""

import json
import os
import subprocess
from dataclasses import replace

import pytest

from export.cli import main as export
from mobile_runtime.session import GREEDY, Session
from tests.docs.pages import blocks
from tests.paths import ROOT

PYTHON = ROOT / ".build/environments/lmms-eval/bin/python"
pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="lmms-eval wants an environment of its own: make lmms-eval"
)
# Stops the process, as a signal would, when the third answer is asked for.
STOPPED = """
import os, sys
from mobile_runtime.session import Session
chat, asked = Session.chat, []
def counted(*given):
    asked.append(given)
    if len(asked) > 2:
        os._exit(9)
    return chat(*given)
Session.chat = counted
sys.argv = ["lmms-eval", *sys.argv[1:]]
from lmms_eval.__main__ import cli_evaluate
cli_evaluate()
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The page's task and its data, in a folder with the pictures."""
    folder = tmp_path_factory.mktemp("lmms")
    for block in blocks(ROOT / "docs/evaluate.md"):
        if block.file and block.file.startswith("pictures/"):
            (folder / block.file).parent.mkdir(exist_ok=True)
            (folder / block.file).write_text(block.body)
    os.symlink(ROOT / "examples", folder / "examples")
    return folder


@pytest.fixture(scope="module", params=["coreml", "onnx"])
def pocket(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pocket")
    flags = ["--quant", "int4-fast", "--output", str(folder), "--quiet"]
    assert export([request.param, *flags]) == 0
    return next(folder.iterdir())


@pytest.fixture
def harness(files, tmp_path):
    """harness(bundle, output, *before) -> the process of the page's command."""

    def run(bundle, output, *before):
        ((_, *words),) = next(
            b.commands() for b in blocks(ROOT / "docs/evaluate.md") if b.reason == LMMS
        )
        place = words.index("bundle=out/minicpmv-pocket-coreml-int4,kept=out/kept.jsonl")
        words[place] = f"bundle={bundle},kept={tmp_path / 'kept.jsonl'}"
        words[words.index("--output_path") + 1] = str(output)
        own = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [PYTHON, *(before or ("-m", "lmms_eval")), *words],
            cwd=files,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
        )

    return run


LMMS = "needs lmms-eval"


def result_of(output):
    """(score, answers by question) that the harness wrote."""
    (results,) = output.rglob("*_results.json")
    (samples,) = output.rglob("*_samples_*.jsonl")
    scores = json.loads(results.read_text())["results"]["signs_and_shapes"]
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return scores["exact_match,none"], {r["doc_id"]: r["filtered_resps"] for r in rows}


def test_the_score_is_that_of_the_session_and_a_stopped_run_goes_on(
    harness, pocket, files, tmp_path
):
    stopped = harness(pocket, tmp_path / "stopped", "-c", STOPPED)
    assert stopped.returncode == 9, stopped.stderr[-2000:]
    kept = tmp_path / "kept.jsonl"
    begun = kept.read_bytes()
    assert begun.count(b"\n") == 3  # of what run, and two answers
    kept.write_bytes(begun + b'["half')
    done = harness(pocket, tmp_path / "stopped")
    assert done.returncode == 0, done.stderr[-2000:]
    assert kept.read_bytes().startswith(begun) and kept.read_bytes().count(b"\n") == 4
    kept.unlink()
    assert harness(pocket, tmp_path / "whole").returncode == 0
    score, answers = result_of(tmp_path / "stopped")
    assert (score, answers) == result_of(tmp_path / "whole")
    session = Session.load(pocket)
    items = [json.loads(x) for x in (files / "pictures/pictures.jsonl").read_text().splitlines()]
    right = []
    for number, item in enumerate(items):
        picture = {"type": "image", "image": str(ROOT / item["picture"])}
        question = {"type": "text", "text": item["question"]}
        messages = [{"role": "user", "content": [picture, question]}]
        answer = "".join(session.chat(messages, replace(GREEDY, max_new_tokens=16)))
        assert answers[number] == answer
        right.append(answer == item["answer"])
    assert score == pytest.approx(sum(right) / len(right))
