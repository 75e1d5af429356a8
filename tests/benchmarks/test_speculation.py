"""The benchmark of guessed tokens, on a tiny bundle."""

import json

from benchmarks.speculation import answered, main


def test_texts_are_copied_changed_and_new():
    copied, changed, other = answered(40)
    assert copied.prompt.endswith(copied.answer)
    words = list(zip(copied.answer.split(), changed.answer.split(), strict=True))
    assert [n for n, (a, b) in enumerate(words, 1) if a != b] == [12, 24, 36]
    assert len(other.answer.split()) == 40 and other.answer != copied.answer


def test_given_answers_are_measured_with_and_without(make_bundle, tmp_path, capsys):
    path = tmp_path / "speculation.json"
    bundle = str(make_bundle("int4-fast"))
    assert main([bundle, "--rounds", "1", "--words", "3", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())["figures"]
    assert [figure["text"] for figure in figures] == [
        "copied",
        "copied with changes",
        "other text",
    ]
    for figure in figures:
        assert figure["speed"] == figure["plain_seconds"] / figure["guessed_seconds"]
        assert figure["tokens"] > 3 and figure["accepted"] <= figure["drafted"]
