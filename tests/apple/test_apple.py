"""One case of every fourth of coremltools' own tests of operations, with the interpreter for a
Mac; `make apple-tests` runs all of them."""

import json

import pytest

from tests.apple.known import known_reason
from tests.apple.run import run_suite

pytest.importorskip("coremltools")
pytest.importorskip("torch")

SAMPLE = 4  # about 50 seconds
LEAST = 90  # cases that have to pass, so that the judge cannot fall silent


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Outcome and reason of each case of the sample, by name."""
    report = tmp_path_factory.mktemp("apple") / "cases.json"
    done = run_suite(report, sample=SAMPLE, timeout=1800)
    assert report.is_file(), done.stderr + done.stdout
    return json.loads(report.read_text(encoding="utf-8"))


def differing(cases):
    return {name: why for name, (kind, why) in cases.items() if kind in ("wrong", "refused")}


def test_the_interpreter_gives_the_numbers_that_coremltools_expects(cases):
    wrong = {name: why for name, why in differing(cases).items() if known_reason(name) is None}
    assert not wrong, "\n\n".join(f"{name}\n{why}" for name, why in wrong.items())


def test_enough_cases_were_judged(cases):
    assert sum(kind == "passed" for kind, _ in cases.values()) >= LEAST


def test_every_known_difference_is_still_one(cases):
    passing = [name for name, (kind, _) in cases.items() if kind == "passed"]
    assert [name for name in passing if known_reason(name) is not None] == []
