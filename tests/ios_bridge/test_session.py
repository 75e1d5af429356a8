"""The `replay` command on conversations recorded in Python; `swift test` replays all of them."""

import json

import pytest

from tests.ios_bridge.conversations import export_default, record


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The default model with a cache of the host's."""
    return export_default(tmp_path_factory.mktemp("exports") / "bundle", "io")


@pytest.mark.parametrize("name", ["turns", "cancelled"])
def test_swift_gives_the_same_answers(name, exported, minicpmv, tmp_path):
    path = record(name, exported, tmp_path / "recording")
    shown = minicpmv("replay", path.parent / "bundle", path).splitlines()
    *turns, end = (json.loads(line) for line in shown)
    absent = {"text": None, "error": None, "finish_reason": None}
    expected = json.loads(path.read_text(encoding="utf-8"))["expected"]
    assert [absent | turn for turn in turns] == expected
    assert end["remaining_calls"] == 0
    print({name: value for name, value in end["differences"].items() if value})
    assert {name for name, value in end["differences"].items() if value} <= {"resampler.score_bias"}
