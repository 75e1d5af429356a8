"""`python -m validation plan [BUNDLE_OR_CHECKPOINT]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_runtime.command import Terminal

HELP = "which devices a model fits, how fast it can be there, and what these figures rest on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="BUNDLE_OR_CHECKPOINT",
        help="a Core ML bundle, or a checkpoint's folder or hub id (default: the pocket model)",
    )
    parser.add_argument(
        "--quant", default="int4", help="recipe that a checkpoint would be exported by"
    )
    parser.add_argument("--context", type=int, metavar="N", help="tokens of context")
    parser.add_argument(
        "--views",
        type=int,
        nargs="+",
        default=(1, 4, 10),
        metavar="N",
        help="views until the first token, 1 to 10 each",
    )
    parser.add_argument("--device", nargs="+", metavar="NAME", help="default: all that are known")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from mobile_runtime.files import check_place, write_json
    from validation.planner.devices import find_devices
    from validation.planner.estimate import plan_device
    from validation.planner.needs import needs_of
    from validation.planner.report import as_json, print_plan

    if options.json is not None:
        check_place(options.json)
    devices = find_devices(options.device)
    needs = needs_of(options.model, options.quant, options.context)
    plans = [plan_device(needs, device, options.views) for device in devices]
    print_plan(needs, plans, Terminal())
    if options.json is not None:
        write_json(options.json, as_json(needs, plans))
        print(options.json)
    return 0
