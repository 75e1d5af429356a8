"""All rules, by theme."""

from __future__ import annotations

from validation.doctor import (
    attention,
    converters,
    numerics,
    operations,
    packages,
    shapes,
    states,
    weights,
)
from validation.doctor.rule import Rule, Theme

THEMES: tuple[Theme, ...] = tuple(
    module.THEME
    for module in (
        shapes,
        numerics,
        operations,
        attention,
        states,
        weights,
        packages,
        converters,
    )
)
RULES: tuple[Rule, ...] = tuple(rule for theme in THEMES for rule in theme.rules)
