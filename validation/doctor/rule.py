"""What a rule is, and how a module of rules declares one.

A rule is data (number, severity, source, what to change) with one small function that looks at an
operation, a function, a package or the whole bundle, and says in words what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from mobile_runtime.mlprogram.program import Operation
from validation.doctor.view import BundleView, FunctionView, PackageView

Severity = Literal["error", "warning", "note"]
Effect = Literal["leaves", "risky"]
Confidence = Literal["high", "medium", "low"]
Scope = Literal["operation", "function", "package", "bundle"]
Places = Iterator[tuple[str, str]]  # where: the name of an operation, input or weight; what it has


@dataclass(frozen=True)
class Rule:
    """One rule. `severity` is "error" if results are wrong or the model does not load or answer,
    "warning" if it leaves the Neural Engine or may, "note" for what is only worth knowing.

    `source` says who found it, and on what; `confidence` is high if that is Apple's code or two
    independent measurements, medium for one careful measurement, low for one claim.
    """

    id: str
    title: str
    severity: Severity
    effect: Effect
    source: str
    confidence: Confidence
    remedy: str
    scope: Scope
    check: Callable[..., Any]


@dataclass(frozen=True)
class Theme:
    """Rules about one thing, in order; `letter` begins their numbers."""

    letter: str
    title: str
    rules: list[Rule] = field(default_factory=list)

    def operation(self, number: int, title: str, **facts: Any) -> Callable[..., Any]:
        """Declares a rule of a function (operation, view) -> what it found, empty if nothing."""
        return self._declare("operation", number, title, facts)

    def function(self, number: int, title: str, **facts: Any) -> Callable[..., Any]:
        """Declares a rule of a function of the view of a function -> `Places`."""
        return self._declare("function", number, title, facts)

    def package(self, number: int, title: str, **facts: Any) -> Callable[..., Any]:
        """Declares a rule of a function of the view of a package -> `Places`."""
        return self._declare("package", number, title, facts)

    def bundle(self, number: int, title: str, **facts: Any) -> Callable[..., Any]:
        """Declares a rule of a function of the view of a bundle -> `Places`."""
        return self._declare("bundle", number, title, facts)

    def _declare(
        self, scope: Scope, number: int, title: str, facts: dict[str, Any]
    ) -> Callable[..., Any]:
        def declared(check: Callable[..., Any]) -> Callable[..., Any]:
            rule_id = f"{self.letter}{number:02d}"
            self.rules.append(Rule(id=rule_id, title=title, scope=scope, check=check, **facts))
            return check

        return declared


@dataclass(frozen=True)
class Finding:
    """What a rule found, and where. `model` is the name of a pipeline's model, `function` and
    `operation` are empty where a rule looks at more. `waived` is the reason why it is accepted."""

    rule: Rule
    package: str
    model: str
    function: str
    operation: str
    type: str
    found: str
    waived: str = ""

    @property
    def place(self) -> str:
        """Such as "decoder.mlpackage: prefill: softmax_0"."""
        parts = (self.package, self.model, self.function, self.operation)
        return ": ".join(part for part in parts if part)


def apply_rule(rule: Rule, view: FunctionView | PackageView | BundleView) -> Iterator[Finding]:
    """Yield what a rule finds in a view of its scope."""
    if isinstance(view, FunctionView):
        package, function = view.package, view.name
        if rule.scope == "operation":
            for op in view.operations:
                found = rule.check(op, view)
                if found:
                    yield Finding(
                        rule, package.name, package.model, function, op.name, op.type, found
                    )
            return
        operations: dict[str, Operation] = {op.name: op for op in view.operations}
        for where, found in rule.check(view):
            kind = operations[where].type if where in operations else ""
            yield Finding(rule, package.name, package.model, function, where, kind, found)
        return
    name = view.name
    model = view.model if isinstance(view, PackageView) else ""
    for where, found in rule.check(view):
        yield Finding(rule, name, model, "", where, "", found)
