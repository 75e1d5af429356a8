"""Recipes of quantization: ordered rules from weight names to specifications.

A recipe depends on no backend, no file and no code of a method.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from export.quant.weights import FORMS
from mobile_runtime.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class QuantSpec:
    """How one weight is stored and how its values are chosen.

    `form` is a key of `FORMS` (lut, rows, blocks, floats), `method` a key of `METHODS`, by default
    the form's own. `group_size` counts the rows of a lookup table or the columns of a block.
    Unless `symmetric`, each block has an offset as well as a scale.
    """

    form: str
    bits: int
    group_size: int = 1
    symmetric: bool = True
    method: str = ""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise InputError(f"no storage form {self.form!r}; there are {', '.join(FORMS)}.")
        if not self.method:
            object.__setattr__(self, "method", FORMS[self.form].default_method)

    def __str__(self) -> str:
        if self.form == "floats":
            return f"float{self.bits}"
        kind = self.form if self.symmetric else f"asymmetric {self.form}"
        return f"{self.bits}-bit {kind} g{self.group_size} by {self.method}"

    def fitted(self, shape: Shape) -> QuantSpec:
        """The same with the largest group size that divides both the matrix and `group_size`."""
        length = shape[FORMS[self.form].group_axis]
        return replace(self, group_size=math.gcd(length, self.group_size))

    @property
    def layout(self) -> tuple[str, int, int, bool]:
        """Form, bits, group size and symmetry, which a stored weight must agree with."""
        return self.form, self.bits, self.group_size, self.symmetric

    def stored_bytes(self, shape: Shape) -> int:
        """Bytes on disk of a weight, without padding for alignment."""
        return FORMS[self.form].stored_bytes(shape, self.bits, self.group_size, self.symmetric)


FLOAT16, FLOAT32 = QuantSpec("floats", 16), QuantSpec("floats", 32)


@dataclass(frozen=True)
class QuantRule:
    """Weights whose name matches `pattern` (shell wildcards) get `spec`."""

    pattern: str
    spec: QuantSpec


@dataclass(frozen=True)
class QuantRecipe:
    """Rules in order; the first that matches decides."""

    name: str
    rules: tuple[QuantRule, ...]

    def assign(self, matrices: Mapping[str, Shape]) -> dict[str, QuantSpec]:
        """Return each matrix's specification. Raises `InputError` if a rule matches no matrix."""
        assigned = {name: self.spec_of(name, shape) for name, shape in matrices.items()}
        if idle := [rule.pattern for rule in self.rules if not self._matches_any(rule, matrices)]:
            raise InputError(
                f"recipe {self.name} has rules that match no weight: {', '.join(idle)}; "
                "correct or remove them."
            )
        return assigned

    def spec_of(self, name: str, shape: Shape) -> QuantSpec:
        """The specification of one matrix. Raises `InputError` if no rule matches."""
        return self._rule_for(name).spec.fitted(shape)

    def with_matrices(self, specs: Mapping[str, QuantSpec]) -> QuantRecipe:
        """The same with specifications of single matrices before its rules."""
        rules = (QuantRule(name, spec) for name, spec in specs.items())
        return replace(self, rules=(*rules, *self.rules))

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
        """Read what `as_json` wrote, or an older recipe whose `method` names the form as well."""
        rules = tuple(
            QuantRule(rule["pattern"], _read_spec(rule["spec"])) for rule in value["rules"]
        )
        return QuantRecipe(value["name"], rules)


# The form that an older recipe means by its `method`.
_FORM_OF_METHOD = {"kmeans": "lut", "affine": "rows", "block": "blocks", "dense": "floats"}


def _read_spec(value: Mapping[str, Any] | None) -> QuantSpec:
    if value is None:
        return FLOAT16
    if "form" in value:
        return QuantSpec(**value)
    form = _FORM_OF_METHOD[value["method"]]
    return QuantSpec(form, value["bits"], value["group_size"], value.get("symmetric", True))
