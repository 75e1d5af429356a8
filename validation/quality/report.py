"""Quality by text and bundle: as tables, as JSON, in a bundle's card, with confidence intervals.

Neighbouring tokens are not independent, so an interval goes by the means of blocks of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mobile_runtime.bundle import FileEntry, file_sha256, read_manifest, write_manifest
from mobile_runtime.files import write_json, write_text
from validation.quality.costs import Cost
from validation.quality.measure import Scores

_Z = 1.959964  # 97.5 % quantile of the normal distribution
_BLOCK = 32  # tokens


@dataclass(frozen=True)
class Quality:
    """What a bundle keeps of one text. Distances in nats, shares of tokens, `*_error` half the
    width of a 95 % confidence interval."""

    bundle: str
    text: str
    tokens: int
    bits_per_weight: float
    perplexity: float
    reference_perplexity: float
    kl: float
    kl_error: float
    kl_p99: float
    top1: float
    top1_error: float
    top5: float

    @classmethod
    def of(cls, bundle: str, text: str, bits: float, scores: Scores) -> Quality:
        """Sum up the figures of single tokens."""
        return cls(
            bundle=bundle,
            text=text,
            tokens=len(scores.kl),
            bits_per_weight=bits,
            perplexity=float(np.exp(scores.loss.mean())),
            reference_perplexity=float(np.exp(scores.reference_loss.mean())),
            kl=float(scores.kl.mean()),
            kl_error=error_of_mean(scores.kl),
            kl_p99=float(np.quantile(scores.kl, 0.99)),
            top1=float(scores.top[1].mean()),
            top1_error=error_of_mean(scores.top[1]),
            top5=float(scores.top[5].mean()),
        )


def error_of_mean(values: np.ndarray) -> float:
    """Half the width of the 95 % confidence interval of the mean of consecutive values (n,); NaN
    for fewer than two blocks."""
    count = len(values) // _BLOCK
    if count < 2:
        return float("nan")
    blocks = values[: count * _BLOCK].reshape(count, _BLOCK).astype(np.float64).mean(axis=1)
    return float(_Z * blocks.std(ddof=1) / count**0.5)


@dataclass(frozen=True)
class Copying:
    """Of strings of a kind that stood in a list of `length` tokens: the shares that a bundle and
    the checkpoint repeat exactly."""

    bundle: str
    kind: str
    length: int
    strings: int
    exact: float
    reference_exact: float

    @classmethod
    def of(cls, bundle: str, kind: str, length: int, pairs: Sequence[tuple[bool, bool]]) -> Copying:
        """Sum up whether the bundle and the checkpoint repeat each string."""
        exact, reference = np.mean(pairs, axis=0).tolist()
        return cls(bundle, kind, length, len(pairs), exact, reference)


@dataclass(frozen=True)
class Report:
    """All that was measured, and under what `protocol`."""

    protocol: Mapping[str, Any]
    rows: Sequence[Quality]
    copying: Sequence[Copying] = ()
    costs: Sequence[Cost] = ()

    def of(self, bundle: str) -> Report:
        """What is of one bundle."""
        rows = [row for row in self.rows if row.bundle == bundle]
        copying = [row for row in self.copying if row.bundle == bundle]
        costs = [cost for cost in self.costs if cost.bundle == bundle]
        return Report(self.protocol, rows, copying, costs)

    def print(self, console: Console) -> None:
        """Print the tables."""
        if self.rows:
            print_qualities(self.rows, console)
        if self.copying:
            console.print(_table(self.copying, _COPYING))
        for bundle in dict.fromkeys(cost.bundle for cost in self.costs):
            console.print(f"{bundle}: distance by what alone is stored as there, the worst first")
            console.print(_table(_worst(self.of(bundle).costs), _COSTS))

    def write(self, path: Path) -> None:
        """Write the figures as JSON."""
        write_json(path, asdict(self))

    def write_card(self, bundle: Path, name: str) -> None:
        """Put the figures of a bundle, named `name` here, into its card, in the place of any that
        are there, and the card's new digest into its manifest."""
        own, card = self.of(name), bundle / _CARD
        lines = [_BEGIN, "## Quality"]
        if own.rows:
            lines += ["", *_markdown(own.rows, _QUALITY), "", _LEGEND]
        if own.copying:
            lines += [
                "",
                "Strings of a list repeated exactly:",
                "",
                *_markdown(own.copying, _COPYING),
            ]
        if own.costs:
            costs = _markdown(_worst(own.costs), _COSTS)
            lines += ["", "What costs most on its own:", "", *costs]
        lines += ["", *(f"- {key}: {value}" for key, value in self.protocol.items()), _END]
        content = card.read_text(encoding="utf-8")
        before, _, rest = content.partition(_BEGIN)
        after = rest.partition(_END)[2]
        parts = (before.rstrip(), "\n".join(lines), after.strip())
        write_text(card, "\n\n".join(part for part in parts if part) + "\n")
        changed = FileEntry(_CARD, card.stat().st_size, file_sha256(card))
        manifest = read_manifest(bundle)
        files = tuple(changed if entry.path == _CARD else entry for entry in manifest.files)
        write_manifest(bundle, replace(manifest, files=files))


_CARD = "README.md"
_BEGIN, _END = "<!-- quality -->", "<!-- /quality -->"
_WORST = 10  # parts that are shown
_LEGEND = "In brackets: the checkpoint in float32. ± gives 95 % confidence intervals."
# Headings, and what stands below them for a row.
_Columns = Mapping[str, Callable[[Any], str]]
_QUALITY: _Columns = {
    "bundle": lambda row: row.bundle,
    "text": lambda row: row.text,
    "bits": lambda row: f"{row.bits_per_weight:.2f}",
    "perplexity": lambda row: f"{row.perplexity:.3f} ({row.reference_perplexity:.3f})",
    "KL": lambda row: f"{row.kl:.4f} ± {row.kl_error:.4f}",
    "99 % of KL": lambda row: f"{row.kl_p99:.3f}",
    "first token kept, %": lambda row: f"{100 * row.top1:.1f} ± {100 * row.top1_error:.1f}",
    "within five, %": lambda row: f"{100 * row.top5:.1f}",
}
_COPYING: _Columns = {
    "bundle": lambda row: row.bundle,
    "strings": lambda row: f"{row.strings} {row.kind}",
    "tokens": lambda row: str(row.length),
    "copied, %": lambda row: f"{100 * row.exact:.0f} ({100 * row.reference_exact:.0f})",
}
_COSTS: _Columns = {"part": lambda row: row.part, "KL": lambda row: f"{row.kl:.4f}"}


def _worst(costs: Sequence[Cost]) -> list[Cost]:
    """Those that are shown, the worst first."""
    return sorted(costs, key=lambda cost: -cost.kl)[:_WORST]


def _table(rows: Sequence[Any], columns: _Columns) -> Table:
    table = Table(*columns)
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    return table


def _markdown(rows: Sequence[Any], columns: _Columns) -> list[str]:
    """A table of a single bundle."""
    shown = {heading: cell for heading, cell in columns.items() if heading != "bundle"}
    cells = [[cell(row) for cell in shown.values()] for row in rows]
    lines = [list(shown), ["---"] * len(shown), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]


def print_qualities(rows: Sequence[Quality], console: Console) -> None:
    """Print one line per bundle and text."""
    console.print(_table(rows, _QUALITY))
    console.print(_LEGEND)
