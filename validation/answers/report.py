"""Scores by task and candidate: as a table, as JSON, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from mobile_runtime.files import write_json

_Z = 1.959964  # 97.5 % quantile of the normal distribution
_MISTAKES_KEPT = 10


class Answer(NamedTuple):
    """What was asked, the right answer, the answer given."""

    question: str
    expected: str
    given: str


@dataclass(frozen=True)
class Score:
    """Right answers out of `total`, and some of the others."""

    right: int
    total: int
    mistakes: tuple[Answer, ...]

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Score:
        """Count the right ones."""
        wrong = [answer for answer in answers if answer.expected != answer.given]
        return cls(len(answers) - len(wrong), len(answers), tuple(wrong[:_MISTAKES_KEPT]))

    @property
    def share(self) -> float:
        """Share of right answers."""
        return self.right / self.total

    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the share, after Wilson (1927)."""
        n, p = self.total, self.share
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        reach = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
        return max(0.0, middle - reach), min(1.0, middle + reach)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{100 * self.share:.1f} ({100 * low:.0f}–{100 * high:.0f})"


@dataclass(frozen=True)
class AnswerReport:
    """Scores by (row, candidate); `agreement` is each further candidate's share of answers equal
    to the first one's, right or wrong."""

    seed: int
    items: int
    rows: tuple[str, ...]
    candidates: tuple[str, ...]
    scores: Mapping[tuple[str, str], Score]
    agreement: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        scores = {
            row: {name: self._entry(self.scores[row, name]) for name in self.candidates}
            for row in self.rows
        }
        facts = {"seed": self.seed, "items": self.items, "candidates": list(self.candidates)}
        return {**facts, "agreement": dict(self.agreement), "scores": scores}

    @staticmethod
    def _entry(score: Score) -> dict[str, Any]:
        low, high = score.interval()
        return {
            "right": score.right,
            "total": score.total,
            "interval": [round(low, 4), round(high, 4)],
            "mistakes": [list(mistake) for mistake in score.mistakes],
        }

    def write(self, path: Path) -> None:
        """Write the JSON file in one step."""
        write_json(path, self.as_json())

    def print(self, console: Console) -> None:
        """Print the table."""
        table = Table("task", *self.candidates)
        for row in self.rows:
            table.add_row(row, *(str(self.scores[row, name]) for name in self.candidates))
        if self.agreement:
            shares = (f"{100 * self.agreement[name]:.1f}" for name in self.candidates[1:])
            table.add_row(f"same answer as {self.candidates[0]}", "", *shares)
        console.print(table)
        console.print(
            f"Right answers in % of {self.items} per task, with 95 % confidence intervals."
        )


def answers_table(reports: Sequence[dict[str, Any]]) -> str:
    """Return saved reports as one Markdown table: right answers in percent, with intervals. A
    candidate that several reports have is taken from the first. If the numbers of questions differ,
    each column names its own."""
    columns: dict[str, dict[str, Any]] = {}
    for report in reports:
        for name in report["candidates"]:
            columns.setdefault(name, report)
    first, *_ = names = list(columns)
    counts = {name: columns[name]["items"] for name in names}
    alike = len(set(counts.values())) == 1
    heads = [name if alike else f"{name}, of {counts[name]}" for name in names]
    lines = [f"| task | {' | '.join(heads)} |", "|---" * (1 + len(names)) + "|"]
    for row in reports[0]["scores"]:
        cells = [_share(columns[name]["scores"][row][name]) for name in names]
        lines.append(f"| {row.replace('_', ' ')} | {' | '.join(cells)} |")
    agreements = [f"{100 * columns[name]['agreement'][name]:.1f}" for name in names[1:]]
    if agreements:
        lines.append(f"| same answer as {first} | | {' | '.join(agreements)} |")
    return "\n".join(lines)


def _share(entry: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in entry["interval"])
    return f"{100 * entry['right'] / entry['total']:.1f} ({low:.0f}–{high:.0f})"
