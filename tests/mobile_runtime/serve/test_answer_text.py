"""Thoughts and answers come apart, and stop sequences end an answer, however a text is cut."""

import itertools

import pytest

from mobile_runtime.serve.answer_text import AnswerText


def read(pieces, thinking=False, stops=()):
    """(thoughts, answer, stopped); no part may be empty or overlap another."""
    text = AnswerText(thinking, stops)
    parts = [part for piece in pieces for part in text.push(piece)] + text.flush()
    whole = "".join(pieces)
    assert all(part.text and whole[part.begin : part.end] == part.text for part in parts)
    assert all(a.end <= b.begin for a, b in itertools.pairwise(parts))
    thoughts, answer = (
        "".join(part.text for part in parts if part.is_thought == kind) for kind in (True, False)
    )
    return thoughts, answer, text.stopped


def cuts(text, pieces=3):
    """Every way to cut a text into so many pieces, and into letters."""
    yield list(text)
    for places in itertools.combinations_with_replacement(range(len(text) + 1), pieces - 1):
        bounds = (0, *places, len(text))
        yield [text[a:b] for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nHm.\n\nSo.\n</think>\n\nYes.\n", ("Hm.\n\nSo.", "Yes.\n", False)),
        ("<think>\n</think>Yes", ("", "Yes", False)),
        ("<think>\nHm. </thin", ("Hm. </thin", "", False)),
        ("<think>\nA STOP </think>\nB STOP C", ("A STOP ", "B ", True)),
    ],
)
def test_thoughts_and_answer_are_told_apart(text, expected):
    for pieces in cuts(text):
        assert read(pieces, thinking=True, stops=("STOP",)) == expected


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (("lo w",), ("", "hel", True)),
        (("world", "o"), ("", "hell", True)),
        (("lol", "d!"), ("", "hello world", False)),
        ((), ("", "hello world", False)),
    ],
)
def test_an_answer_ends_before_the_first_stop_sequence(stops, expected):
    for pieces in cuts("hello world"):
        assert read(pieces, stops=stops) == expected


def test_text_that_cannot_begin_a_stop_sequence_is_not_held_back():
    text = AnswerText(False, ("###",))
    assert [part.text for part in text.push("ab")] == ["ab"]
    assert [part.text for part in text.push("c#")] == ["c"]
    assert [part.text for part in text.push("#d")] == ["##d"]
