"""The reference of all commands, from the argument parsers: one section for each command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.parsers import PROGRAMS, command_help, commands_of, parser_of

_INTRODUCTION = """\
# Commands

<!-- Written by `python -m docs.generate` from the argument parsers. Edits are overwritten. -->

Every command prints this with `-h`. After `pip install -e .`, each program is also a script:

{scripts}

All commands end with 0, with 2 after a mistake that you can correct (one sentence on stderr), and
with 130 after Ctrl-C. `validation parity`, `package` and `device-report` end with 1 when a stage
or an output fails, `lint` when it finds an error, `audit` when an operation goes wrong, and
`diff --exit-code` when there is a difference.
"""
# What argparse puts where an option has no default.
_NO_DEFAULT: tuple[Any, ...] = (None, False, argparse.SUPPRESS, [], ())


def commands_page() -> str:
    """The whole page."""
    scripts = "\n".join(f"- `{script}` is `python -m {name}`" for name, script in PROGRAMS.items())
    sections = [_INTRODUCTION.format(scripts=scripts)]
    for program in PROGRAMS:
        sections += [_section(program, command) for command in commands_of(program)]
    return "\n".join(sections)


def _section(program: str, command: str) -> str:
    parser = parser_of(program, command)
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    positional = [action for action in actions if not action.option_strings]
    options = [action for action in actions if action.option_strings]
    usage = " ".join(["python -m", program, command, *map(_in_usage, positional)])
    lines = [f"## {program} {command}", "", command_help(program, command), ""]
    lines += ["```text", usage + (" [options]" if options else ""), "```"]
    if any(action.help for action in positional):
        lines += ["", "| argument | meaning |", "|---|---|"]
        lines += [_row(f"`{_placeholder(action)}`", _meaning(action)) for action in positional]
    if options:
        lines += ["", "| option | meaning | default |", "|---|---|---|"]
        lines += [_row(_spelling(action), _meaning(action), _default(action)) for action in options]
    return "\n".join([*lines, *_exclusive(parser), ""])


def _exclusive(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A sentence for each group of options of which only one may be given."""
    for group in parser._mutually_exclusive_groups:
        names = " or ".join(f"`{action.option_strings[-1]}`" for action in group._group_actions)
        yield f"\n{'Give' if group.required else 'Give at most'} one of {names}."


def _in_usage(action: argparse.Action) -> str:
    name = _placeholder(action)
    form: dict[Any, str] = {"?": f"[{name}]", "*": f"[{name} …]", "+": f"{name} [{name} …]"}
    return form.get(action.nargs, name)


def _placeholder(action: argparse.Action) -> str:
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


def _spelling(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings)
    if action.nargs == 0:
        return f"`{name}`"
    if action.choices is not None and action.metavar is None:
        value = f"{{{','.join(map(str, action.choices))}}}"
    else:
        value = _placeholder(action)
    return f"`{name} {value}{' …' if action.nargs in ('+', '*') else ''}`"


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "default": _value(action)}
    needed = "required" if action.required and action.option_strings else ""
    return "; ".join(filter(None, (text, needed)))


def _default(action: argparse.Action) -> str:
    said = "%(default)s" in (action.help or "")
    return "" if said or action.default in _NO_DEFAULT else f"`{_value(action)}`"


def _value(action: argparse.Action) -> str:
    """The default, as a reader of any machine may see it."""
    default = action.default
    if isinstance(default, Path) and default.is_absolute():
        return "the system's folder for caches"
    if isinstance(default, list | tuple):
        every = action.choices is not None and list(action.choices) == list(default)
        return "all" if every else " ".join(map(str, default))
    return str(default)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
