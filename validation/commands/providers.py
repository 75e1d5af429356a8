"""`python -m validation providers BUNDLE`."""

from __future__ import annotations

import argparse

from mobile_runtime.command import Terminal
from validation.commands.options import add_bundle

HELP = "which operators of ONNX graphs the execution providers of phones run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_bundle(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from validation.doctor.providers import print_assignments

    print_assignments(options.bundle, Terminal())
    return 0
