"""Tasks of EleutherAI's harness on the default model: its scores are those computed by hand."""

import json
from functools import partial

import numpy as np
import pytest

from export.cli import main as export
from mobile_runtime.errors import InputError
from tests.docs.pages import blocks
from tests.paths import ROOT
from validation.cli import main

pytest.importorskip("lm_eval", reason="the harness is not installed: pip install -e '.[lm-eval]'")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from validation.harnesses.lm_eval import BundleLM
from validation.quality.measure import reference_logits
from validation.quality.passages import Passage
from validation.reference.reference import Reference
from validation.sources import open_checkpoint

ITEMS = [
    {"question": "What does the sign say?", "choices": ["MUSEUM", "red", "7"], "answer": 0},
    {"question": "How many circles are there?", "choices": ["blue", "3", "EXIT"], "answer": 1},
    {"question": "What colour is the square?", "choices": ["12", "STOP", "green"], "answer": 2},
]
# In the form of the harness's own tasks, such as arc_easy and gsm8k; the data lie beside them.
CHOICE = """\
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
ANSWER = """\
task: local_answer
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: 12}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
ROLLING = """\
task: local_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - {{metric: byte_perplexity}}
metadata: {{version: 1.0}}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    for name, text in (("choice", CHOICE), ("answer", ANSWER), ("rolling", ROLLING)):
        (folder / f"{name}.yaml").write_text(text.format(data=data))
    return folder


@pytest.fixture(scope="module", params=["coreml", "onnx"])
def pocket(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pocket")
    flags = ["--quant", "none", "--output", str(folder), "--quiet"]
    assert export([request.param, *flags]) == 0
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def model(pocket):
    return BundleLM(str(pocket), precision="fp32", threads=1)


@pytest.fixture(scope="module")
def by_hand():
    """by_hand(model, prefix, text) -> PyTorch's log-probability of the text's tokens, and the
    number of its most probable ones."""
    source = open_checkpoint(None)
    reference = Reference(source.config, source.checkpoint)

    def score(context, continuation):
        ids = np.array(context + continuation)
        scored = np.arange(len(context) - 1, len(ids) - 1)
        logits = reference_logits(reference, Passage(ids[:-1], scored, ids[1:])).astype(np.float64)
        rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return float(rows[np.arange(len(continuation)), continuation].sum())

    return score


def evaluate(model, tasks, name, **options):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(
        model, tasks=[name], task_manager=manager, bootstrap_iters=0, **options
    )


def test_a_choice_is_scored_as_by_hand(model, tasks, by_hand):
    found = evaluate(model, tasks, "local_choice")
    encode = model.tok_encode
    right, normed = [], []
    for item in ITEMS:
        context = f"Question: {item['question']}\nAnswer:"
        scores = []
        for choice in item["choices"]:
            whole = encode(f"{context} {choice}")
            begun = len(encode(context))
            scores.append(by_hand(whole[:begun], whole[begun:]))
        right.append(int(np.argmax(scores)) == item["answer"])
        lengths = [len(choice) for choice in item["choices"]]
        normed.append(int(np.argmax(np.array(scores) / lengths)) == item["answer"])
        logged = next(
            s["filtered_resps"] for s in found["samples"]["local_choice"] if s["doc"] == item
        )
        np.testing.assert_allclose([total for total, _ in logged], scores, atol=5e-3)
    figures = found["results"]["local_choice"]
    assert figures["acc,none"] == pytest.approx(np.mean(right))
    assert figures["acc_norm,none"] == pytest.approx(np.mean(normed))
    assert found["config"]["checkpoint"] == "pocket"


def test_perplexity_is_that_by_hand(model, tasks, by_hand):
    found = evaluate(model, tasks, "local_rolling")["results"]["local_rolling"]
    texts = [item["question"] for item in ITEMS]
    total = sum(by_hand([model.prefix_token_id], model.tok_encode(text)) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    assert found["byte_perplexity,none"] == pytest.approx(np.exp(-total / size), rel=1e-3)


def test_a_chat_is_answered_as_the_session_answers_it(model, tasks):
    from dataclasses import replace

    from mobile_runtime.session import GREEDY, Session

    found = evaluate(model, tasks, "local_answer", apply_chat_template=True)
    session = model._scorer.session.fork()
    assert isinstance(session, Session)
    samples = found["samples"]["local_answer"]
    right = []
    for item in ITEMS:
        messages = [{"role": "user", "content": item["question"]}]
        answer = "".join(session.chat(messages, replace(GREEDY, max_new_tokens=12)))
        (given,) = next(s["filtered_resps"] for s in samples if s["doc"] == item)
        assert given == answer.split("\n")[0]
        right.append(given == item["choices"][item["answer"]])
    assert any(given for sample in samples for given in sample["filtered_resps"])
    assert found["results"]["local_answer"]["exact_match,none"] == pytest.approx(np.mean(right))


def test_tokens_of_a_template_are_the_session_s(model):
    messages = [{"role": "user", "content": "Read <b>this</b>, please."}]
    text = model.apply_chat_template(messages)
    wanted = model._scorer.session.prepare(messages).encoded.input_ids.tolist()
    assert model.tok_encode(text) == wanted
    spelled = model.tok_encode("a <|im_end|>")
    assert model.eot_token_id not in spelled


def test_options_that_a_bundle_does_not_have_are_refused(model, pocket):
    request = Instance("generate_until", {}, ("a", {"num_beams": 4, "until": ["\n"]}), 0)
    with pytest.raises(InputError, match="a task asks for num_beams"):
        model.generate_until([request])
    with pytest.raises(InputError, match="leave out dtype"):
        BundleLM(str(pocket), dtype="float32")


@pytest.fixture
def only_local(monkeypatch):
    """The harness reads no tasks of its own, which takes it half a minute."""
    few = partial(TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", few)


def test_the_command_of_the_page_writes_the_harness_s_results(
    pocket, only_local, tmp_path, monkeypatch, capsys
):
    page = blocks(ROOT / "docs/evaluate.md")
    for block in page:
        if block.file:
            (tmp_path / block.file).parent.mkdir(exist_ok=True)
            (tmp_path / block.file).write_text(block.body)
    shown = [b.commands() for b in page if b.reason == "needs the harness" and b.is_shell]
    ((python, _, module, *words),) = shown[0]
    assert (python, module) == ("python", "validation")
    monkeypatch.chdir(tmp_path)
    place = words.index("bundle=out/minicpmv-pocket-coreml-int4")
    assert main([*words[:place], f"bundle={pocket}", *words[place + 1 :]]) == 0
    (path,) = (tmp_path / "out").rglob("results*.json")
    result = json.loads(path.read_text())
    assert result["config"]["bundle_sha256"] and 0 <= result["results"]["signs"]["acc,none"] <= 1
    assert "signs" in capsys.readouterr().out
    assert main([*words[:place], f"bundle={tmp_path}", *words[place + 1 :]]) == 2
    assert "manifest.json" in capsys.readouterr().err
