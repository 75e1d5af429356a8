"""What a bundle keeps of its checkpoint's next tokens: figures against their definitions."""

import json
import math
import shutil
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from export.calibration.chat_format import open_chat_format
from mobile_runtime.chat.conversation import prepare_prompt
from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.session import Session
from validation.cli import main
from validation.quality.costs import measure_costs
from validation.quality.judge import judge_copying
from validation.quality.measure import Candidate, Scores, bits_per_weight
from validation.quality.passages import KINDS, copy_tasks, of_chats, of_text
from validation.quality.report import Quality, error_of_mean
from validation.sources import open_checkpoint


def test_figures_of_two_tokens_follow_their_definitions():
    reference = np.log([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]])
    candidate = np.log([[0.25, 0.5, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]) + 7
    scores = Scores.of(candidate, reference, np.array([1, 0]))
    kl = 0.5 * math.log(2) - 0.25 * math.log(2)
    np.testing.assert_allclose(scores.kl, [kl, 0], atol=1e-12)
    assert scores.top[1].tolist() == [False, True] and scores.top[5].all()
    np.testing.assert_allclose(np.exp(-scores.loss), [0.5, 0.1])
    np.testing.assert_allclose(np.exp(-scores.reference_loss), [0.25, 0.1])
    assert scores.right.tolist() == [True, False]
    assert scores.reference_right.tolist() == [False, False]
    quality = Quality.of("b", "t", 4.0, scores)
    assert quality.perplexity == pytest.approx((1 / (0.5 * 0.1)) ** 0.5)
    assert quality.top1 == 0.5 and math.isnan(quality.kl_error)


def test_intervals_hold_the_true_mean_of_dependent_values():
    """Of values that stay the same for eight tokens: as often as they promise."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        values = np.repeat(rng.normal(size=128), 8)
        hits += abs(values.mean()) < error_of_mean(values)
    assert 0.9 < hits / 300 < 0.98


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    return path


def test_floats_keep_everything_and_fewer_bits_less(make_bundle, random_checkpoint, text, tmp_path):
    bundles = [make_bundle(quant) for quant in ("none", "int8", "int4-fast")]
    path = tmp_path / "quality.json"
    arguments = ["--texts", str(text), "--tokens", "150", "--precision", "fp32"]
    checkpoint = ["--checkpoint", str(random_checkpoint), "--json", str(path)]
    assert main(["quality", *map(str, bundles), *arguments, *checkpoint]) == 0
    floats, eight, four = json.loads(path.read_text())["rows"]
    assert floats["kl"] < 1e-5 < eight["kl"] < four["kl"]
    assert floats["top1"] == 1 and floats["tokens"] == 149
    assert floats["perplexity"] == pytest.approx(floats["reference_perplexity"], rel=1e-4)
    # A table of 256 values for 16 rows of 256 columns or more is at most one bit per weight.
    assert floats["bits_per_weight"] > 16 > 9 > eight["bits_per_weight"] > 8
    assert 4.2 > four["bits_per_weight"] > 4


def test_a_rotated_bundle_is_compared_with_the_published_weights(random_checkpoint, text, tmp_path):
    from export.cli import main as export_main

    flags = ["--quant", "none", "--rotate", "--context-length", "128", "--quiet"]
    where = ["--checkpoint", str(random_checkpoint), "--output", str(tmp_path)]
    assert export_main(["coreml", *flags, *where]) == 0
    (bundle,) = tmp_path.iterdir()
    path = tmp_path / "quality.json"
    arguments = ["--texts", str(text), "--tokens", "100", "--precision", "fp32"]
    checkpoint = ["--checkpoint", str(random_checkpoint), "--json", str(path)]
    assert main(["quality", str(bundle), *arguments, *checkpoint]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert row["kl"] < 1e-5


def test_bundles_of_another_checkpoint_are_refused(make_bundle, text, capsys):
    assert main(["quality", str(make_bundle("int4-fast")), "--texts", str(text)]) == 2
    assert "give it with --checkpoint" in capsys.readouterr().err


def test_bits_count_tables_and_padding(make_bundle):
    from mobile_runtime.bundle import read_manifest

    manifest = read_manifest(make_bundle("int4-fast"))
    (decoder,) = [graph for graph in manifest.graphs if graph.role == "decoder"]
    assert bits_per_weight(manifest) == 8 * decoder.weight_bytes / decoder.parameters


@pytest.fixture
def chat_format(random_checkpoint):
    return open_chat_format(random_checkpoint)


def test_an_answer_is_judged_from_its_first_token_to_the_end_of_the_message(chat_format, tmp_path):
    path = tmp_path / "chats.json"
    chat = [{"role": "user", "content": "Say blue."}, {"role": "assistant", "content": "blue"}]
    path.write_text(json.dumps([chat]))
    (passage,) = of_chats(path, chat_format, 500)
    tokenizer = chat_format.tokenizer
    end = chat_format.prompt.special_tokens["message_end"].id
    assert passage.targets.tolist() == [*tokenizer.encode_text("blue"), end]
    followed = np.append(passage.ids, end)[passage.scored + 1]
    assert followed.tolist() == passage.targets.tolist()
    prompt = prepare_prompt(chat[:1], chat_format, PromptOptions()).encoded.input_ids
    assert passage.ids[: len(prompt)].tolist() == prompt.tolist()
    assert passage.scored[0] == len(prompt) - 1


@pytest.mark.parametrize(
    ("chats", "longest", "said"),
    [
        ([[{"role": "user", "content": "What?"}]], 500, "chat 1 does not end with an answer"),
        ({"texts": ["no chats"]}, 500, "holds no chats"),
        (
            [
                {
                    "messages": [
                        {"role": "user", "content": "What?"},
                        {"role": "assistant", "content": "yes", "reasoning_content": "Hm."},
                    ]
                }
            ],
            500,
            "chat 1 thinks, and thoughts are not judged",
        ),
        (
            [[{"role": "user", "content": "What?"}, {"role": "assistant", "content": "yes"}]],
            4,
            "the context of a bundle holds 4",
        ),
    ],
)
def test_chats_that_cannot_be_judged_are_refused(chat_format, tmp_path, chats, longest, said):
    path = tmp_path / "chats.json"
    path.write_text(json.dumps(chats))
    with pytest.raises(InputError, match=said):
        of_chats(path, chat_format, longest)


def test_asked_strings_stand_in_their_list_and_fit_the_length(chat_format):
    tokenizer = chat_format.tokenizer
    tasks = copy_tasks(chat_format, 512)
    assert {(task.kind, task.length) for task in tasks} == set(product(KINDS, (128, 512)))
    for task in tasks:
        passage = task.passage
        whole = tokenizer.decode(passage.ids.tolist())
        listed, asked = whole.split("\nOnce more:\n")
        lines = dict(line.split(": ", 1) for line in listed.splitlines())
        assert len(passage.ids) <= task.length and len(task.spans) <= len(lines)
        questions = [line.split(":")[0] for line in asked.splitlines()]
        for question, span in zip(questions, task.spans, strict=True):
            string = tokenizer.decode(passage.targets[span].tolist())
            assert string == f" {lines[question]}"
    for key in product(KINDS, (128, 512)):
        counts = [len(task.spans) for task in tasks if (task.kind, task.length) == key]
        assert sum(counts) >= 16


def test_a_string_is_copied_if_all_of_its_tokens_come_first(chat_format, monkeypatch):
    """One candidate repeats what it read, the other gets one token of each list wrong."""
    tasks = copy_tasks(chat_format, 128)[:1]
    (passage,) = [task.passage for task in tasks]
    knows = np.eye(5000, dtype=np.float32)[passage.targets]
    errs = knows.copy()
    errs[0] = np.roll(errs[0], 1)
    monkeypatch.setattr("validation.quality.measure.reference_logits", lambda *_: knows)
    monkeypatch.setattr("validation.quality.measure.Reference", lambda *_: None)
    candidates = [
        Candidate("knows", 4, 128, lambda _: knows),
        Candidate("errs", 4, 128, lambda _: errs),
    ]
    source = SimpleNamespace(config=None, checkpoint=None)
    right, wrong = judge_copying(candidates, source, tasks)
    count = len(tasks[0].spans)
    assert (right.exact, right.reference_exact, right.strings) == (1, 1, count)
    assert (wrong.exact, wrong.reference_exact) == (1 - 1 / count, 1)


def test_a_cost_is_that_of_the_part_alone(make_bundle, random_checkpoint, text):
    """With eight bits in one part and four in the others, that part costs least; float parts and
    none at all cost nothing."""
    source = open_checkpoint(str(random_checkpoint))
    passages = of_text(text.read_text(), source.chat_format, 100, 100)
    costs = {
        quant: {
            cost.part: cost.kl
            for cost in measure_costs(make_bundle(quant), quant, source, passages)
        }
        for quant in ("none", "int8", "int4-fast")
    }
    blocks = {f"block {n}" for n in range(source.config.decoder.num_layers)}
    assert costs["none"].keys() == {*blocks, *KINDS_OF_MATRICES, "embed_tokens", "lm_head"}
    assert max(costs["none"].values()) < 1e-5
    for part in {*blocks, *KINDS_OF_MATRICES}:
        assert costs["int8"][part] < costs["int4-fast"][part]
    assert costs["int8"]["embed_tokens"] == costs["int4-fast"]["embed_tokens"] > 0


KINDS_OF_MATRICES = {
    f"all {name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")
}  # of Qwen3


def test_figures_are_written_into_the_card_once(make_bundle, random_checkpoint, text, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(make_bundle("int4-fast"), bundle)
    before = (bundle / "README.md").read_text(encoding="utf-8")
    arguments = ["quality", str(bundle), "--checkpoint", str(random_checkpoint), "--card"]
    for tokens in ("40", "80"):
        asked = ["--texts", str(text), "--tokens", tokens, "--copying", "--costs"]
        assert main([*arguments, *asked]) == 0
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert card.startswith(before.rstrip()) and card.count("## Quality") == 1
    assert "80 at most" in card and "40 at most" not in card
    assert "| text.txt | 4." in card and "| 16 digits | 128 |" in card and "| block 0 |" in card
    Session.load(bundle, EngineOptions())  # the card is no part of what is verified


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "there is nothing to measure"),
        (["--copying", "--costs"], "--costs are measured on texts"),
        (["--texts", "a/x.txt", "b/x.txt"], "two files are called x.txt"),
    ],
)
def test_what_cannot_be_measured_is_refused(make_bundle, capsys, asked, said):
    assert main(["quality", str(make_bundle("int4-fast")), *asked]) == 2
    assert said in capsys.readouterr().err
