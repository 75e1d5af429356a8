"""Every rule finds a minimal program that breaks it, at the right place, and spares a near miss."""

import pytest

pytest.importorskip("coremltools")

from tests.validation.doctor.cases import ATTENTION, NUMBERS, OPERATIONS, SHAPES, STATES
from tests.validation.doctor.packages import write
from tests.validation.doctor.weight_cases import CONVERTERS, PACKAGES, WEIGHTS
from validation.doctor.examine import examine
from validation.doctor.rules import RULES

CASES = {
    **SHAPES,
    **NUMBERS,
    **OPERATIONS,
    **ATTENTION,
    **STATES,
    **WEIGHTS,
    **PACKAGES,
    **CONVERTERS,
}
BY_ID = {rule.id: rule for rule in RULES}
OF_THE_WHOLE = {*PACKAGES, "C02"}  # these name no place
# A place of these has another name: an input that the rule knows by it, a write without outputs.
ELSEWHERE = {"K07": "bad_write_state", "K08": "past_key", "K10": "main"}


def test_every_rule_has_a_case_and_numbers_are_unique():
    assert len(BY_ID) == len(RULES)
    assert set(CASES) == set(BY_ID)


@pytest.mark.parametrize("rule", CASES)
def test_rule_finds_what_breaks_it_and_spares_what_nearly_does(rule, tmp_path):
    bad, near = CASES[rule]
    found = {}
    for name, options in (("bad", bad), ("near", near)):
        path = write(tmp_path / f"{name}.mlpackage", **options)
        found[name] = examine(path, rules=[BY_ID[rule]]).findings
    assert found["near"] == ()
    assert found["bad"], "nothing is found"
    places = {finding.operation or finding.function for finding in found["bad"]}
    assert places == ({""} if rule in OF_THE_WHOLE else {ELSEWHERE.get(rule, "bad")})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_rule_says_where_it_comes_from_and_what_to_do(rule):
    assert rule.source and rule.remedy and rule.title
    assert rule.severity in ("error", "warning", "note")
    assert rule.confidence in ("high", "medium", "low")
    assert not (rule.severity == "error" and rule.confidence == "low")
