"""Whole conversations of the Swift session on packages that the Python session recorded."""

import json

import pytest

from tests.ios_bridge.conversations import KV_CACHES, RECORDINGS, export_default, record


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The default model, with a cache of the package's and with one of the host's."""
    folder = tmp_path_factory.mktemp("exports")
    return {kind: export_default(folder / kind, kind) for kind in KV_CACHES}


@pytest.mark.parametrize(("name", "kind"), RECORDINGS)
def test_swift_gives_the_same_answers(name, kind, exported, minicpmv, tmp_path):
    path = record(name, exported[kind], tmp_path / "recording")
    shown = minicpmv("replay", path.parent / "bundle", path).splitlines()
    *turns, end = (json.loads(line) for line in shown)
    absent = {"text": None, "error": None, "finish_reason": None}
    expected = json.loads(path.read_text(encoding="utf-8"))["expected"]
    assert [absent | turn for turn in turns] == expected
    assert end["remaining_calls"] == 0
    print({name: value for name, value in end["differences"].items() if value})
    assert {name for name, value in end["differences"].items() if value} <= {"resampler.score_bias"}
