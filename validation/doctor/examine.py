"""Package or bundle -> what the rules find in it, and what becomes of each operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mobile_runtime.bundle import MANIFEST_NAME, read_manifest
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.description import describe_model
from mobile_runtime.mlprogram.model_file import (
    PIPELINES,
    PROGRAM,
    ModelFile,
    kind_of,
    not_a_program,
    read_model,
    reading,
)
from mobile_runtime.mlprogram.program import read_program
from mobile_runtime.package.pipeline import models_of
from validation.doctor.rule import Finding, Rule, apply_rule
from validation.doctor.rules import RULES
from validation.doctor.view import BundleView, PackageView
from validation.doctor.waivers import OWN, Waiver
from validation.planner.devices import Device


@dataclass(frozen=True)
class Counts:
    """Operations of one function, by what becomes of them."""

    package: str
    function: str
    fine: int
    risky: int
    leaves: int


@dataclass(frozen=True)
class Diagnosis:
    """All findings, those that are waived last, and the counts of every function."""

    target: str
    findings: tuple[Finding, ...]
    counts: tuple[Counts, ...]

    @property
    def failed(self) -> bool:
        """Whether anything is an error and not waived."""
        return any(f.rule.severity == "error" and not f.waived for f in self.findings)


def examine(
    target: Path,
    device: Device | None = None,
    waivers: Iterable[Waiver] = (),
    rules: Iterable[Rule] = RULES,
) -> Diagnosis:
    """Apply the rules to a package, or to every package of a Core ML bundle. What the exporter
    does on purpose is waived in its own bundles. Raises `InputError` for anything else."""
    packages = open_packages(target, device)
    bundle = BundleView(target.name, packages, device)
    own = OWN if is_bundle(target) else ()
    findings = [
        _waived(finding, (*own, *waivers)) for rule in rules for finding in _findings(rule, bundle)
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    findings.sort(key=lambda f: (bool(f.waived), order[f.rule.severity]))
    return Diagnosis(str(target), tuple(findings), tuple(_counts(bundle, findings)))


def is_bundle(target: Path) -> bool:
    """Whether it is the folder of an export. Raises `InputError` if there is nothing."""
    if not target.exists():
        raise InputError(
            f"{target} does not exist; give a .mlpackage, or the folder of a Core ML bundle."
        )
    return (target / MANIFEST_NAME).is_file()


def open_packages(target: Path, device: Device | None = None) -> tuple[PackageView, ...]:
    """The ML Programs at `target`: a package, those of a pipeline, or all of a bundle. Raises
    `InputError` if there is none."""
    if not is_bundle(target):
        return tuple(_programs(target, target.name, device))
    manifest = read_manifest(target)
    if manifest.format != "coreml":
        raise InputError(
            f"{target} is a bundle for {manifest.format}, whose graphs are no ML Programs; give a "
            "Core ML bundle, or ask `python -m validation providers` about this one."
        )
    paths = [graph.path for graph in manifest.graphs]
    return tuple(view for path in paths for view in _programs(target / path, path, device))


def _programs(path: Path, name: str, device: Device | None) -> Iterator[PackageView]:
    with reading(path):
        file = read_model(path)
        found = list(_models(file, file.message, ""))
        if not found:
            raise not_a_program(path, kind_of(file.message))
        views = []
        for model, message in found:
            program, description = read_program(file, message), describe_model(message)
            views.append(PackageView(name, model, path, program, description, device))
    yield from views


def _models(file: ModelFile, message: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The ML Programs of a model: itself, or those of its pipeline."""
    kind = kind_of(message)
    if kind == PROGRAM:
        yield name, message
    elif kind in PIPELINES:
        for part, inner in models_of(message):
            yield from _models(file, inner, part)


def _findings(rule: Rule, bundle: BundleView) -> Iterator[Finding]:
    if rule.scope == "bundle":
        yield from apply_rule(rule, bundle)
        return
    for package in bundle.packages:
        with reading(package.path):
            if rule.scope == "package":
                yield from list(apply_rule(rule, package))
            else:
                for function in package.functions:
                    yield from list(apply_rule(rule, function))


def _waived(finding: Finding, waivers: Iterable[Waiver]) -> Finding:
    for waiver in waivers:
        if waiver.rule == finding.rule.id and fnmatchcase(finding.place, waiver.where):
            return replace(finding, waived=waiver.reason)
    return finding


def _counts(bundle: BundleView, findings: Iterable[Finding]) -> Iterator[Counts]:
    """An operation leaves if one finding says so, and is risky if any other one does. Notes and
    what is waived count as fine."""
    marked: dict[tuple[str, str, str], dict[str, str]] = {}
    for finding in findings:
        if finding.waived or finding.rule.severity == "note" or not finding.operation:
            continue
        place = (finding.package, finding.model, finding.function)
        effects = marked.setdefault(place, {})
        if effects.get(finding.operation) != "leaves":
            effects[finding.operation] = finding.rule.effect
    for package in bundle.packages:
        for view in package.functions:
            effects = marked.get((package.name, package.model, view.name), {})
            found = Counter(effects.get(op.name, "fine") for op in view.operations)
            name = ": ".join(filter(None, (package.name, package.model)))
            yield Counts(name, view.name, found["fine"], found["risky"], found["leaves"])
