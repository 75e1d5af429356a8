"""House rules of the Swift sources: sizes, no crash on purpose, everything public documented."""

import re

import pytest

from tests.paths import ROOT

FOLDER = ROOT / "ios_bridge"
SOURCES = sorted((FOLDER / "Sources").rglob("*.swift"))
TESTS = sorted((FOLDER / "Tests").rglob("*.swift"))
CRASHES = re.compile(r"\btry!|\bas!|\bfatalError\b|\bpreconditionFailure\b|[\w)\]]!(?![=\w])")
PUBLIC = re.compile(r"\s*(@\w+(\(.*\))? )*(public|open) ")


def _code(path):
    """Lines without comments and texts."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [re.sub(r'"(\\.|[^"\\])*"', '""', line).split("//")[0] for line in lines]


def test_there_are_sources():
    assert len(SOURCES) > 20 and len(TESTS) > 3


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=lambda path: path.name)
def test_files_are_small(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_crashes_on_purpose(path):
    assert [line for line in _code(path) if CRASHES.search(line)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_everything_public_is_documented(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    bare = []
    for number, line in enumerate(lines):
        if not PUBLIC.match(line) or line.strip().startswith("public extension"):
            continue
        above = number - 1
        while above >= 0 and lines[above].strip().startswith("@"):
            above -= 1
        if not lines[above].strip().startswith("///"):
            bare.append(f"{path.name}:{number + 1} {line.strip()}")
    assert bare == []


def test_a_crash_is_found():
    assert all(CRASHES.search(text) for text in ("a!", "f()!.x", "x[0]!", "try! f()", "x as! T"))
    assert not any(CRASHES.search(text) for text in ("a != b", "!a", "if !x.isEmpty"))
