"""A difference on the terminal."""

from __future__ import annotations

from collections import Counter

from rich.console import Console

from validation.doctor.difference import Change, Difference

_MARKS = {"added": "+", "removed": "-", "changed": "~"}
_STYLES = {"+": "green", "-": "red", "~": "yellow"}
_SHOWN = 10


def print_difference(difference: Difference, console: Console, everything: bool = False) -> None:
    """Print one line for each change, grouped by what it is of, then operations as lines that are
    removed (-) and added (+), then the counts. Ten of a group, or `everything`."""
    shown = None if everything else _SHOWN
    groups: dict[str, list[Change]] = {}
    for change in difference.changes:
        groups.setdefault(change.what, []).append(change)
    for changes in groups.values():
        for change in changes[:shown]:
            _line(console, _MARKS[change.kind], _in_words(change))
        _rest(console, len(changes), shown)
    for function, hunks in difference.hunks.items():
        console.print(f"operations of {function}:")
        lines = []
        for hunk in hunks:
            if hunk.rewired:
                lines.append(("~", f"{hunk.added[0]}, {hunk.rewired}"))
            else:
                lines += [("-", text) for text in hunk.removed]
                lines += [("+", text) for text in hunk.added]
        for mark, text in lines[:shown]:
            _line(console, mark, text)
        _rest(console, len(lines), shown)
    console.print(_summary(difference))


def _line(console: Console, mark: str, text: str) -> None:
    console.print(f"{mark} {text}", style=_STYLES[mark])


def _rest(console: Console, count: int, shown: int | None) -> None:
    if shown is not None and count > shown:
        console.print(f"  and {count - shown} more (--all)")


def _in_words(change: Change) -> str:
    values = " → ".join(filter(None, (change.before, change.after)))
    return f"{change.what} {change.name}" + (f": {values}" if values else "")


def _summary(difference: Difference) -> str:
    compared = f"{difference.equal_weights} weights are equal"
    if difference.files_only:
        compared = "graphs were compared by their files"
    if not difference.differs:
        return f"no difference; {compared}"
    counts: Counter[str] = Counter(change.what for change in difference.changes)
    counts["functions with other operations"] = len(difference.hunks)
    listed = ", ".join(f"{what} {count}" for what, count in counts.items() if count)
    return f"differences: {listed}; {compared}"
