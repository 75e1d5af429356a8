"""What is quantized and how finely: ordered rules from weight names to specifications.

A recipe knows no backend, no file and no method's code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from mobile_runtime.errors import InputError

Method = Literal["kmeans", "affine", "block", "dense"]


Shape = tuple[int, int]  # of a matrix: (rows, columns)


@dataclass(frozen=True)
class QuantSpec:
    """`kmeans`: a lookup table of 2**bits values for every `group_size` rows; `affine`: integers
    with one scale a row; `block`: integers with one scale for every `group_size` columns of a row;
    `dense`: floats of 16 or 32 bits. Integers are symmetric about zero, or each block has an offset
    as well."""

    bits: int
    group_size: int
    method: Method
    symmetric: bool = True

    def __str__(self) -> str:
        if self.method == "dense":
            return f"float{self.bits}"
        kind = self.method if self.symmetric else f"asymmetric {self.method}"
        return f"{kind} {self.bits}-bit g{self.group_size}"

    def fitted(self, shape: Shape) -> QuantSpec:
        """The same with the largest group that divides both the matrix and the group asked for."""
        length = shape[1] if self.method == "block" else shape[0]
        return replace(self, group_size=math.gcd(length, self.group_size))


DENSE16, DENSE32 = QuantSpec(16, 1, "dense"), QuantSpec(32, 1, "dense")


@dataclass(frozen=True)
class QuantRule:
    """Weights whose name matches `pattern` (shell wildcards) get `spec`; None keeps float16."""

    pattern: str
    spec: QuantSpec | None


@dataclass(frozen=True)
class QuantRecipe:
    """Rules in order; the first that matches decides."""

    name: str
    rules: tuple[QuantRule, ...]

    def assign(self, matrices: Mapping[str, Shape]) -> dict[str, QuantSpec | None]:
        """Specification of each matrix by its shape; a rule that matches none is an error."""
        used: set[QuantRule] = set()
        assigned = {}
        for name, shape in matrices.items():
            rule = self._rule_for(name)
            used.add(rule)
            assigned[name] = None if rule.spec is None else rule.spec.fitted(shape)
        if idle := [rule.pattern for rule in self.rules if not self._matches_any(rule, matrices)]:
            raise InputError(
                f"recipe {self.name} has rules that match no weight: {', '.join(idle)}; "
                "correct or remove them."
            )
        return assigned

    def _rule_for(self, name: str) -> QuantRule:
        for rule in self.rules:
            if fnmatchcase(name, rule.pattern):
                return rule
        raise InputError(f"recipe {self.name} has no rule for {name}; end it with the pattern '*'.")

    def _matches_any(self, rule: QuantRule, names: Iterable[str]) -> bool:
        return any(fnmatchcase(name, rule.pattern) for name in names)

    def as_json(self) -> dict[str, Any]:
        """The recipe as the manifest records it."""
        return {"name": self.name, "rules": [asdict(rule) for rule in self.rules]}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> QuantRecipe:
        """Read back what `as_json` wrote."""
        rules = tuple(
            QuantRule(rule["pattern"], None if rule["spec"] is None else QuantSpec(**rule["spec"]))
            for rule in value["rules"]
        )
        return QuantRecipe(value["name"], rules)
