"""`python -m validation lint PACKAGE_OR_BUNDLE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_runtime.command import Terminal

HELP = "what in a Core ML package leaves the Neural Engine or goes wrong on devices, by cited rules"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "target", type=Path, metavar="PACKAGE_OR_BUNDLE", help="a .mlpackage, or a Core ML bundle"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the findings as JSON")
    parser.add_argument("--sarif", type=Path, metavar="FILE", help="also write them as SARIF 2.1.0")
    parser.add_argument(
        "--device", metavar="NAME", help="judge by the limits of this device (see `plan`)"
    )
    parser.add_argument(
        "--waivers",
        type=Path,
        metavar="FILE",
        help="JSON list of findings that are accepted: rule, where (a pattern), reason",
    )
    parser.add_argument("--all", action="store_true", help="print every place of every finding")


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0, or 1 if a rule finds an error."""
    from mobile_runtime.files import check_place, write_json
    from validation.doctor.examine import examine
    from validation.doctor.report import as_json, as_sarif, print_diagnosis
    from validation.doctor.waivers import read_waivers
    from validation.planner.devices import find_devices

    outputs = ((options.json, as_json), (options.sarif, as_sarif))
    for path, _ in outputs:
        if path is not None:
            check_place(path)
    device = find_devices([options.device])[0] if options.device is not None else None
    waivers = read_waivers(options.waivers) if options.waivers is not None else ()
    diagnosis = examine(options.target, device, waivers)
    print_diagnosis(diagnosis, Terminal(), options.all)
    for path, form in outputs:
        if path is not None:
            write_json(path, form(diagnosis))
            print(path)
    return int(diagnosis.failed)
