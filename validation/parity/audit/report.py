"""An audit on the terminal and as JSON: the verdict in words, then the operations, worst first."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from validation.parity.audit.findings import Audited, Cost
from validation.parity.audit.run import Audit
from validation.parity.stages import FP16_FLOOR

_SHOWN = 20


def print_audit(audit: Audit, console: Console, everything: bool) -> None:
    """Print the verdict, the cost for each input, and the worst operations, or all."""
    for line in _verdict(audit):
        console.print(line)
    for cost in audit.costs:
        console.print(f"{cost.name}: {_cost(cost)}")
    shown = audit.operations if everything else audit.operations[:_SHOWN]
    right = (Column(head, justify="right") for head in ("largest", "fits", "small", "own", "all"))
    table = Table(Column("operation", overflow="fold"), "type", *right)
    for one in shown:
        place = f"{one.package.removesuffix('.mlpackage')} {one.function} {one.name}"
        figures = _db(one.local_db), _db(one.accumulated_db)
        fits = f"{one.headroom:.3g}×" if math.isfinite(one.headroom) else "any"
        share = f"{one.subnormal_share:.1%}"
        table.add_row(place, one.type, f"{one.found.largest:.3g}", fits, share, *figures)
    console.print(table)
    console.print(
        "largest: magnitude before rounding · fits: how many times that fits into half precision · "
        "small: share of results below 2^-14 · own: dB of this operation's rounding · all: dB "
        "against full precision from the package's inputs on"
    )
    if len(shown) < len(audit.operations):
        console.print(f"{len(shown)} of {len(audit.operations)} operations; --all prints the rest.")


def _verdict(audit: Audit) -> list[str]:
    if not audit.starts:
        return [
            f"{audit.target} is good in half precision: no operation overflows or falls below "
            f"{FP16_FLOOR:g} dB on these inputs."
        ]
    return [f"{audit.target} goes wrong in half precision:", *map(_where, audit.starts)]


def _where(start: Audited) -> str:
    place = f", after {start.after}" if start.after else ""
    return (
        f"  {start.package}, function {start.function}: {start.name} ({start.type}{place}) "
        f"{start.in_words()}."
    )


def _cost(cost: Cost) -> str:
    parts = [f"{_db(cost.worst_db)} dB"]
    if "KL" in cost.metrics:
        same = f"{cost.metrics['top-1']:.0%} of first tokens stay the first"
        parts += [f"KL {cost.metrics['KL']:.2g}", same]
    return ", ".join([*parts, *([cost.note] if cost.note else [])])


def _db(value: float) -> str:
    if math.isinf(value):
        return "exact" if value > 0 else "lost"
    return f"{value:.1f}"


def as_json(audit: Audit) -> dict[str, Any]:
    """The audit as JSON; None stands for an infinite figure, in either direction."""
    return {
        "target": audit.target,
        "failed": audit.failed,
        "starts": [start.as_json() for start in audit.starts],
        "costs": [
            {
                "input": cost.name,
                "db": _finite(cost.worst_db),
                "metrics": {key: _finite(value) for key, value in cost.metrics.items()},
                "note": cost.note,
            }
            for cost in audit.costs
        ],
        "operations": [one.as_json() for one in audit.operations],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
