"""`python -m validation diff A B`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_runtime.command import Terminal

HELP = "what differs between two Core ML packages, or two bundles, for the reviewer of a change"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("before", type=Path, help="a .mlpackage, or a bundle")
    parser.add_argument("after", type=Path, help="another one of the same kind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write it as JSON")
    parser.add_argument("--all", action="store_true", help="print every change")
    parser.add_argument(
        "--exit-code", action="store_true", help="end with 1 if there is a difference"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0, or with --exit-code 1 if there is a difference."""
    from mobile_runtime.files import check_place, write_json
    from validation.doctor.difference import compare
    from validation.doctor.difference_report import print_difference

    if options.json is not None:
        check_place(options.json)
    difference = compare(options.before, options.after)
    print_difference(difference, Terminal(), options.all)
    if options.json is not None:
        write_json(options.json, difference.as_json())
        print(options.json)
    return int(options.exit_code and difference.differs)
