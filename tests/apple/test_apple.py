"""One case of each of coremltools' own tests of operations, with the interpreter for a Mac."""

import json

import pytest

from tests.apple.known import DIFFERENCES
from tests.apple.run import run_suite

pytest.importorskip("coremltools")
pytest.importorskip("torch")

LEAST = 300  # cases that have to pass, so that the judge cannot fall silent


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Outcome and reason of each case of the sample, by name."""
    report = tmp_path_factory.mktemp("apple") / "cases.json"
    done = run_suite(report, sample=True, timeout=1800)
    assert report.is_file(), done.stderr + done.stdout
    return json.loads(report.read_text(encoding="utf-8"))


def differing(cases):
    return {name: why for name, (kind, why) in cases.items() if kind in ("wrong", "refused")}


def test_the_interpreter_gives_the_numbers_that_coremltools_expects(cases):
    wrong = {
        name: why
        for name, why in differing(cases).items()
        if not any(name.startswith(known) for known in DIFFERENCES)
    }
    assert not wrong, "\n\n".join(f"{name}\n{why}" for name, why in wrong.items())


def test_enough_cases_were_judged(cases):
    assert sum(kind == "passed" for kind, _ in cases.values()) >= LEAST


def test_every_known_difference_is_still_one(cases):
    names = differing(cases)
    assert [k for k in DIFFERENCES if not any(name.startswith(k) for name in names)] == []
