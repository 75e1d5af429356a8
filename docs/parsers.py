"""The argument parsers of programs, got from the programs themselves.

A program builds its parser when it runs, so this asks it for help and keeps the parser that would
print it. No private name of a program is needed, and `-h` is known to work for each command.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

# Module -> the console script that `pip install` makes of it.
PROGRAMS = {
    "export": "minicpmv-export",
    "mobile_runtime": "minicpmv-run",
    "validation": "minicpmv-validate",
}


class _Asked(Exception):
    """Carries the parser that was asked for help."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


@contextmanager
def _asking_for_help(*words: str) -> Iterator[None]:
    """The command line is `words` and -h, and a parser that would print its help is raised."""
    printed, arguments = argparse.ArgumentParser.print_help, sys.argv

    def ask(self: argparse.ArgumentParser, file: object = None) -> NoReturn:
        raise _Asked(self)

    argparse.ArgumentParser.print_help = ask  # type: ignore[method-assign]
    sys.argv = [*words, "-h"]
    try:
        yield
    finally:
        argparse.ArgumentParser.print_help = printed  # type: ignore[method-assign]
        sys.argv = arguments


@cache
def parser_of(module: str, *command: str) -> argparse.ArgumentParser:
    """The parser of `python -m module command`; SystemExit if there is no such command."""
    with _asking_for_help(module, *command), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy: it may be imported already
        try:
            runpy.run_module(module, run_name="__main__")
        except _Asked as asked:
            return asked.parser
    raise AssertionError(f"python -m {' '.join([module, *command])} -h prints no help")


def commands_of(program: str) -> list[str]:
    """The commands of a program, in the order of its help."""
    parser = parser_of(program)
    return [str(name) for action in parser._actions for name in _choices_of_command(action)]


def command_help(program: str, command: str) -> str:
    """What the command does, in the words of the program's own help or of the command's."""
    for action in parser_of(program)._actions:
        for choice in getattr(action, "_choices_actions", ()):
            if choice.dest == command and choice.help:
                return str(choice.help)
    return parser_of(program, command).description or ""


def parse(module: str, arguments: list[str]) -> argparse.Namespace:
    """Parse the words after `python -m module`; SystemExit where the program would refuse them."""
    command, rest = (arguments[:1], arguments[1:]) if module in PROGRAMS else ([], arguments)
    parser = parser_of(module, *command)
    parser.allow_abbrev = False  # a page spells options out
    try:
        return parser.parse_args(rest)
    except SystemExit:
        # A question may stand after the options; the program parses such a command intermixed.
        return parser.parse_intermixed_args(rest)


def _choices_of_command(action: argparse.Action) -> Any:
    return action.choices if not action.option_strings and action.choices else ()
