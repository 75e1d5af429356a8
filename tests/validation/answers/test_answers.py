"""Scoring of answers: what counts, the confidence intervals, the table's rows, the command."""

import json

import pytest

from mobile_runtime.chat.chat_file import Chat
from validation.answers.answers import ask
from validation.answers.report import Answer, Score
from validation.answers.rows import ROWS, draw_item
from validation.cli import main
from validation.questions.tasks import TASKS


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    # Wilson intervals from the formula, worked out by hand for p = 0, 1/2, 1.
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)],
)
def test_interval_is_wilsons(right, total, low, high):
    assert Score(right, total, ()).interval() == pytest.approx((low, high), abs=5e-5)


def test_score_counts_exact_answers_and_keeps_some_mistakes():
    given = [("q", "A", "A"), ("q", "A", "a"), ("q", "B", "B ")]
    score = Score.of([Answer(*answer) for answer in given])
    assert (score.right, score.total) == (1, 3)
    assert score.mistakes == (("q", "A", "a"), ("q", "B", "B "))


def test_earlier_turns_are_answered_by_the_model_itself():
    question = draw_item("second_turn", 0)
    asked = []

    def answer(chat: Chat) -> str:
        asked.append(chat)
        return "<think>\nmine\n</think>\n\nmy answer"

    assert ask(question, answer) == "my answer"
    assert [len(chat.messages) for chat in asked] == [1, 3]
    assert asked[1].messages[1] == {"role": "assistant", "content": "my answer"}


def test_thinking_is_on_in_the_last_turn_of_its_task():
    question = draw_item("thinking", 0)
    options = []
    ask(question, lambda chat: options.append(chat.options.enable_thinking) or "")
    assert options == [True]


def test_shuffled_times_are_the_same_pictures_in_another_order():
    assert set(TASKS) < set(ROWS)
    for index in range(10):
        plain = draw_item("video_order", index)
        shuffled = draw_item("video_order, times shuffled", index)
        assert shuffled.turns == plain.turns
        ((*times,),), ((*changed,),) = plain.temporal_ids, shuffled.temporal_ids
        assert times != changed and times == sorted(changed)


def test_command_scores_pytorch_and_a_bundle(random_checkpoint, make_bundle, tmp_path, capsys):
    """Random weights answer nothing rightly, and both compute the same nonsense."""
    target = tmp_path / "answers.json"
    arguments = ["answers", str(make_bundle("none")), "--checkpoint", str(random_checkpoint)]
    arguments += ["--limit", "1", "--tasks", "printed_text", "--jobs", "1"]
    assert main([*arguments, "--precision", "fp32", "--json", str(target)]) == 0
    assert "printed_text" in capsys.readouterr().out
    report = json.loads(target.read_text())
    assert report["candidates"] == ["PyTorch fp32", "none fp32"]
    assert report["agreement"] == {"none fp32": 1.0}
    assert report["scores"]["printed_text"]["none fp32"]["total"] == 1


def test_a_bundle_of_another_checkpoint_is_one_sentence(make_bundle, capsys):
    assert main(["answers", str(make_bundle("none")), "--limit", "1"]) == 2
    assert "give it with --checkpoint" in capsys.readouterr().err


def test_no_questions_is_one_sentence(make_bundle, capsys):
    assert main(["answers", str(make_bundle("none")), "--limit", "0"]) == 2
    assert "--limit" in capsys.readouterr().err


def test_damaged_checkpoint_without_a_bundle_is_one_sentence(tmp_path, capsys):
    assert main(["answers", "--checkpoint", str(tmp_path), "--limit", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "config.json" in error and len(error.splitlines()) == 1
