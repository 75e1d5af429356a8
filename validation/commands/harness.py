"""`python -m validation harness NAME …`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module

from mobile_runtime.errors import InputError

HELP = "run an evaluation harness that knows bundles as models"
# The harness -> its module here, and the package that it comes in.
HARNESSES: Mapping[str, tuple[str, str]] = {
    "lm-eval": ("validation.harnesses.lm_eval", "lm_eval"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("harness", choices=HARNESSES, help="the harness")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="ARGUMENT",
        help="the harness's own, such as run --model bundle --model_args bundle=DIR --tasks NAME",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0. Raises `InputError` if the harness is not installed."""
    module, package = HARNESSES[options.harness]
    try:
        harness = import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name != package:
            raise
        raise InputError(
            f"{package} is not installed; run pip install -e '.[{options.harness}]'."
        ) from missing
    return int(harness.main(options.arguments))
