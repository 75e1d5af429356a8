"""The command line of the benchmarks that take a checkpoint of full size."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.machine import describe_machine, version
from mobile_runtime.files import write_json

Report = dict[str, Any]


def run_command(
    name: str,
    description: str | None,
    child: Callable[..., None],
    measure: Callable[[Path, int | None, str], Report],
    print_report: Callable[[Report, Console], None],
    packages: Sequence[str] = (),
) -> None:
    """Measure, print and write; with --child, run as the process that is measured. The report has
    the versions of `packages`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="from benchmarks.synthesize")
    parser.add_argument("--jobs", type=int, help="processes; default: the export's")
    parser.add_argument("--quant", default="int4-fast", help="recipe (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    if options.checkpoint is None or not options.checkpoint.is_dir():
        parser.error("give the folder of a checkpoint, such as benchmarks.synthesize makes")
    machine = describe_machine()
    machine["versions"] |= {package: version(package) for package in packages}
    report = measure(options.checkpoint.resolve(), options.jobs, options.quant)
    print_report(report, Console(highlight=False))
    if options.json:
        write_json(options.json, {**machine, **report})
