"""`python -m validation package PACKAGE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_runtime.command import Terminal, add_interpreter, add_limits, limits_of
from validation.commands.options import add_precision

HELP = "compare any Core ML package with the PyTorch module that it was converted from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("package", type=Path, help="a .mlpackage")
    parser.add_argument(
        "--torch",
        required=True,
        metavar="MODULE:FACTORY",
        help="a function without arguments that returns the torch.nn.Module",
    )
    parser.add_argument(
        "--inputs",
        type=Path,
        required=True,
        metavar="FILE",
        help="npz file with an array for each input, pictures as height × width × 3 of uint8",
    )
    parser.add_argument("--function", help="which function (default: the package's default)")
    parser.add_argument(
        "--least",
        type=float,
        default=60.0,
        metavar="DB",
        help="PSNR in dB that every output has to reach (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file for the figures")
    add_interpreter(parser)
    add_precision(parser)
    add_limits(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0, or 1 if an output is below what it has to reach."""
    from mobile_runtime.errors import InputError
    from mobile_runtime.files import check_place
    from mobile_runtime.package.commands import load_array
    from validation.parity.package import ComparisonOptions, compare_package

    limits = limits_of(options)
    if options.output is not None:
        check_place(options.output)
    inputs = load_array(options.inputs)
    if not isinstance(inputs, dict):
        raise InputError(
            f"{options.inputs} holds one array without a name; write it with numpy.savez."
        )
    wanted = ComparisonOptions(
        precision=options.precision,
        function=options.function,
        least=options.least,
        limits=limits,
        engine=options.engine,
        device=options.device,
    )
    report = compare_package(options.package, options.torch, inputs, wanted)
    report.print(Terminal())
    if options.output is not None:
        report.write(options.output)
        print(options.output)
    return int(report.failed)
