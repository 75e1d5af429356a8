"""The pages are plain English: one line of RULES for each habit that made them hard to read."""

import re

import pytest

from tests.docs.pages import name_of, prose
from tests.paths import ROOT

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
# Pattern -> what to write instead. Code, comments and the tables of measurements do not count.
RULES = {
    r"\balone\b": "only",
    r"\b(?:one|two|scale|row|key|entry|file|process) an? "
    r"(?:row|column|core|token|patch|stage|task|package|second|group|layer)\b": "per",
    r"\b(?:tokens|views|frames|questions|weights) an? (?:second|task|group|picture)\b": "per",
    r"\bwhere there (?:is|are) (?:no|none)\b": "without, or if there is no",
    r"\b(?:simply|obviously|of course|just)\b": "nothing",
    r"\bin order to\b": "to",
    r"\b(?:utilize|utilise|leverage)\b": "use",
    r"\bnot (?:unlike|without)\b": "the plain statement",
}


def found(text):
    return {
        match[0]: instead
        for pattern, instead in RULES.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_keeps_the_rules_of_language(page):
    tables = re.compile(r"^\|.*$", re.MULTILINE) if page.name == "benchmarks.md" else None
    text = re.sub(r"`[^`\n]+`", "", prose(page))
    assert found(tables.sub("", text) if tables else text) == {}


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("One scale a row.", "per"),
        ("12 tokens a second", "per"),
        ("the checkpoint alone", "only"),
        ("a scale per row", None),
        ("only standard ONNX", None),
    ],
)
def test_rules_find_what_they_are_for(text, instead):
    assert list(found(text).values()) == ([] if instead is None else [instead])
