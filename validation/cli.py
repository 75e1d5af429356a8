"""`python -m validation COMMAND`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from types import ModuleType

from mobile_runtime.command import fetch_bundles, run_command
from mobile_runtime.errors import InputError
from validation.commands import (
    answers,
    audit,
    benchmark,
    cache_scales,
    device_report,
    diff,
    harness,
    lint,
    package,
    parity,
    plan,
    providers,
    quality,
    trace,
)
from validation.commands.options import check_checkpoint

COMMANDS: Mapping[str, ModuleType] = {
    "parity": parity,
    "package": package,
    "answers": answers,
    "benchmark": benchmark,
    "quality": quality,
    "harness": harness,
    "trace": trace,
    "cache-scales": cache_scales,
    "providers": providers,
    "device-report": device_report,
    "lint": lint,
    "audit": audit,
    "diff": diff,
    "plan": plan,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 if a stage fails or a rule finds an error, 2 for a user's mistake,
    130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    try:
        check_checkpoint(options)
        fetch_bundles(options)
        return int(options.run(options))
    except ModuleNotFoundError as missing:
        raise InputError(
            f"{missing.name} is not installed; run pip install -e "
            "'.[export,coreml,onnx,validation]'."
        ) from missing


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m validation", description="Is a bundle the model, and is it good?"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser
