"""`python -m validation device-report FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_runtime.command import Terminal

HELP = "show what selfTest() of the Swift package found on a device"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("file", type=Path, help="JSON of the self-test")
    parser.add_argument("--parity", type=Path, help="report.json of the bundle, to judge stages by")
    parser.add_argument("--output", type=Path, help="page to write; default: FILE with .html")


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0, or 1 if a stage fails."""
    from validation.parity.device_report import read_device_report, read_floors

    report = read_device_report(options.file)
    floors = read_floors(options.parity) if options.parity else None
    report.print(Terminal(), floors)
    path = options.output or options.file.with_suffix(".html")
    report.write_page(path, floors)
    print(path)
    return int(report.failed(floors))
