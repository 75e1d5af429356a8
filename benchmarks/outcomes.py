"""Tables of what became of many cases: coremltools' own tests, damaged files, killed processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

_LEFT_RIGHT = ("refused", "ok")  # of damaged files: a sentence, or a right result
_APPLE = ("passed", "refused", "wrong", "known", "skipped")
_KILLS = ("killed", "workers seen", "orphans", "finished", "other results")


def apple_table(rows: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Cases of coremltools' tests by opset; `rows` by file, None where the file was not run."""
    lines = [
        "| tests | cases | passed | refused | wrong | differ with a reason | skipped | not run |",
        "|---" * 8 + "|",
    ]
    totals: Counter[str] = Counter()
    for folder in dict.fromkeys(name.partition("/")[0] for name in rows):
        own = {name: row for name, row in rows.items() if name.partition("/")[0] == folder}
        counts: Counter[str] = Counter()
        for row in filter(None, own.values()):
            counts.update({kind: row[kind] for kind in _APPLE})
        absent = [name.removeprefix(f"{folder}/") for name, row in own.items() if row is None]
        lines.append(_apple_row(folder, counts, ", ".join(f"`{name}`" for name in absent)))
        totals += counts
    ran = sum(row is not None for row in rows.values())
    lines.append(_apple_row("**all**", totals, f"{len(rows) - ran} of {len(rows)} files"))
    judged = sum(totals[kind] for kind in ("passed", "refused", "wrong", "known"))
    share = 100 * totals["refused"] / judged if judged else 0.0
    versions = sorted({str(row["coremltools"]) for row in rows.values() if row})
    lines += [
        "",
        f"coremltools {', '.join(versions)}; refused: {share:.2f} % of those not skipped.",
    ]
    return "\n".join(lines)


def _apple_row(name: str, counts: Mapping[str, int], absent: str) -> str:
    cells = (f"{n:,}" for n in (sum(counts.values()), *(counts.get(k, 0) for k in _APPLE)))
    return f"| {name} | {' | '.join(cells)} | {absent} |"


def damage_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Damaged files by kind: refused, right all the same, or neither; then the killed processes."""
    lines = [
        "| damaged | cases | refused | right | anything else | s at most | MB at most | seeds |",
        "|---" * 8 + "|",
    ]
    for kind, row in rows.items():
        if kind == "kills":
            continue
        became = row["became"]
        others = {name: n for name, n in became.items() if name not in _LEFT_RIGHT}
        cells = (
            f"{sum(became.values()):,}",
            *(f"{became.get(name, 0):,}" for name in _LEFT_RIGHT),
            ", ".join(f"{name} {n}" for name, n in others.items()) or "0",
            f"{row['seconds']:.1f}",
            str(row["megabytes"]),
            ", ".join(map(str, row["seeds"])),
        )
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    kills = rows.get("kills")
    listed = ", ".join(f"{name} {kills[name]}" for name in _KILLS) if kills else "not run"
    return "\n".join([*lines, "", f"Processes killed at random moments: {listed}."])
