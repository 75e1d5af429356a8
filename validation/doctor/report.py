"""A diagnosis on the terminal, as JSON for programs, and as SARIF for reviews of code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from validation.doctor.examine import Diagnosis
from validation.doctor.rule import Finding, Rule, Severity
from validation.doctor.rules import RULES

_STYLES: Mapping[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_SHOWN = 3  # places of one rule
_EFFECTS = {"leaves": "leaves the Neural Engine", "risky": "risky"}
_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


def print_diagnosis(diagnosis: Diagnosis, console: Console, everywhere: bool = False) -> None:
    """Print the counts of operations, then each rule that found something with its places (three
    of them, or all `everywhere`), source and remedy, then what is waived and why."""
    table = Table(
        "package",
        "function",
        *(Column(name, justify="right") for name in ("fine", "risky", "leaves")),
    )
    for row in diagnosis.counts:
        figures = map(str, (row.fine, row.risky, row.leaves))
        table.add_row(row.package, row.function, *figures)
    console.print(table)
    groups = _by_rule(f for f in diagnosis.findings if not f.waived)
    for rule, findings in groups.items():
        _print_rule(rule, findings, console, everywhere)
    _print_waived(diagnosis.findings, console)
    counts = {
        severity: sum(f.rule.severity == severity for fs in groups.values() for f in fs)
        for severity in _STYLES
    }
    console.print(", ".join(f"{count} {_plural(name, count)}" for name, count in counts.items()))


def _print_rule(
    rule: Rule, findings: list[Finding], console: Console, everywhere: bool = False
) -> None:
    console.print(
        f"{rule.severity} {rule.id} ({_EFFECTS[rule.effect]}): {rule.title}",
        style=_STYLES[rule.severity],
    )
    shown = findings if everywhere else findings[:_SHOWN]
    for finding in shown:
        console.print(f"  {finding.place}: {finding.found}")
    if len(findings) > len(shown):
        console.print(f"  and at {len(findings) - len(shown)} more places")
    console.print(f"  change: {rule.remedy}")
    console.print(f"  source: {rule.source} (confidence: {rule.confidence})")


def _print_waived(findings: Iterable[Finding], console: Console) -> None:
    for rule, found in _by_rule(f for f in findings if f.waived).items():
        for reason in dict.fromkeys(f.waived for f in found):
            places = sum(f.waived == reason for f in found)
            console.print(f"waived {rule.id} at {places} {_plural('place', places)}: {reason}")


def _by_rule(findings: Iterable[Finding]) -> dict[Rule, list[Finding]]:
    groups: dict[str, tuple[Rule, list[Finding]]] = {}
    for finding in findings:
        groups.setdefault(finding.rule.id, (finding.rule, []))[1].append(finding)
    return dict(groups.values())


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Values of JSON: counts by function, and every finding with its rule's facts."""
    return {
        "target": diagnosis.target,
        "failed": diagnosis.failed,
        "functions": [asdict(counts) for counts in diagnosis.counts],
        "findings": [
            {
                "rule": finding.rule.id,
                "severity": finding.rule.severity,
                "effect": finding.rule.effect,
                "title": finding.rule.title,
                "package": finding.package,
                "model": finding.model,
                "function": finding.function,
                "operation": finding.operation,
                "type": finding.type,
                "found": finding.found,
                "remedy": finding.rule.remedy,
                "source": finding.rule.source,
                "confidence": finding.rule.confidence,
                "waived": finding.waived or None,
            }
            for finding in diagnosis.findings
        ],
    }


def as_sarif(diagnosis: Diagnosis) -> dict[str, Any]:
    """SARIF 2.1.0, which GitHub and editors read: the rules, and a result for each finding."""
    order = {rule.id: n for n, rule in enumerate(RULES)}
    driver = {"name": "validation lint", "rules": [_sarif_rule(rule) for rule in RULES]}
    results = [_sarif_result(diagnosis, f, order[f.rule.id]) for f in diagnosis.findings]
    return {
        "$schema": _SARIF,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": f"{rule.source} (confidence: {rule.confidence})"},
        "help": {"text": rule.remedy},
        "defaultConfiguration": {"level": rule.severity},
    }


def _sarif_result(diagnosis: Diagnosis, finding: Finding, index: int) -> dict[str, Any]:
    target = Path(diagnosis.target)
    file = target if target.name == finding.package else target / finding.package
    result: dict[str, Any] = {
        "ruleId": finding.rule.id,
        "ruleIndex": index,
        "level": finding.rule.severity,
        "message": {"text": f"{finding.rule.title}: {finding.found}; {finding.rule.remedy}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": file.as_posix()}},
                "logicalLocations": [{"fullyQualifiedName": finding.place}],
            }
        ],
    }
    if finding.waived:
        result["suppressions"] = [{"kind": "external", "justification": finding.waived}]
    return result
