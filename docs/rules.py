"""The reference of the doctor's rules, from the rules themselves: one table for each theme."""

from __future__ import annotations

from validation.doctor.rule import Rule
from validation.doctor.rules import RULES, THEMES

_INTRODUCTION = """\
# Rules of the doctor

<!-- Written by `python -m docs.generate` from validation/doctor. Edits are overwritten. -->

`python -m validation lint PACKAGE_OR_BUNDLE` applies these {count} rules. It reads the files only.

| severity | means |
|---|---|
| error | results are wrong, or the model does not load or never answers |
| warning | it leaves the Neural Engine, or may |
| note | worth knowing |

Each rule says who found it, and on what. The confidence is high for Apple's own code and documents
and for two independent measurements, medium for one careful measurement, low for one claim. Nothing
here was measured on a device by this project.
"""


def rules_page() -> str:
    """The whole page."""
    sections = [_INTRODUCTION.format(count=len(RULES))]
    for theme in THEMES:
        rows = "\n".join(_row(rule) for rule in theme.rules)
        sections.append(
            f"## {theme.title}\n\n"
            "| rule | finds | severity, effect | change | source, confidence |\n"
            f"|---|---|---|---|---|\n{rows}\n"
        )
    return "\n".join(sections)


def _row(rule: Rule) -> str:
    cells = (
        rule.id,
        rule.title,
        f"{rule.severity}, {rule.effect}",
        rule.remedy,
        f"{rule.source}, {rule.confidence}",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
