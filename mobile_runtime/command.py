"""What all command lines share: exit codes, and output that no terminal stops or obeys."""

from __future__ import annotations

import argparse
import io
import os
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mobile_runtime.engines import AUTO, COMPUTE_UNITS, EngineOptions, engine_names
from mobile_runtime.engines.memory import Limits
from mobile_runtime.errors import InputError
from mobile_runtime.model.hub import bundle_folder, bundle_name, hub_address

INTERRUPTED = 130
BUNDLE_HELP = "folder that `python -m export` printed, or hf://OWNER/NAME@REVISION"
_PIPE_CLOSED = 141  # as a shell says of a program that wrote to a closed pipe
# Embeddings, overrides and isolates of directions: they show letters in another order than that
# in which they stand.
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text: str) -> str:
    """The text with every character escaped, `\\x1b` for ESC, that would steer a terminal or turn
    the text around; newlines and tabs stay."""
    return "".join(_escaped(c) if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) == "Cc" or character in _TURNING


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class Terminal(Console):
    """Where commands print tables and sentences. Names in them may come from anywhere: none steers
    the terminal, and square brackets are no markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text of a cell or line, printable."""
        return super().render_str(printable(text), **options)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add the option `--precision`, fp16 by default."""
    parser.add_argument(
        "--precision",
        choices=("fp16", "fp32"),
        default="fp16",
        help="fp16 computes as the device does, fp32 keeps activations in float32",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option `--device`, cpu by default."""
    parser.add_argument(
        "--device",
        default="cpu",
        help="where the engine torch computes: cpu, cuda, mps or another that PyTorch knows",
    )


def add_interpreter(parser: argparse.ArgumentParser) -> None:
    """Add `--engine`, of those that compute any package on any system, and `--device`."""
    parser.add_argument(
        "--engine",
        choices=("mil", "torch"),
        default="mil",
        help="what computes: the interpreter with numpy (mil), or with PyTorch (torch)",
    )
    add_device(parser)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add `--memory` and `--work`, which raise what a package of anyone's may take."""
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="what the values of the package may take at one time (default: a quarter of the "
        "memory, or 2 where that is more), and its states where these 8 GB are less",
    )
    parser.add_argument(
        "--work",
        type=float,
        default=Limits().work,
        metavar="TIMES",
        help="how many times the usual bounds of its loops and multiplications it may reach "
        "(default: 1)",
    )


def limits_of(options: argparse.Namespace) -> Limits:
    """What the options of `add_limits` say. Raises `InputError` for what is no limit."""
    return Limits(options.memory, options.work)


def add_engine_name(parser: argparse.ArgumentParser) -> None:
    """Add the options `--engine` and `--device`."""
    parser.add_argument(
        "--engine",
        choices=engine_names(),
        default=AUTO,
        help="what runs the packages; auto: the interpreter (mil), or onnxruntime for ONNX graphs",
    )
    add_device(parser)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add `--engine`, `--device`, `--precision`, `--compute-units`, `--prepacked`, and those of
    `add_limits`."""
    add_engine_name(parser)
    add_precision(parser)
    parser.add_argument(
        "--compute-units",
        choices=COMPUTE_UNITS,
        default=EngineOptions().compute_units,
        help="processors that the engine coreml may use",
    )
    parser.add_argument(
        "--prepacked",
        type=Path,
        metavar="DIR",
        help="keep ONNX weights there as this processor reads them: less memory, twice the disk",
    )
    add_limits(parser)


def engine_options(options: argparse.Namespace) -> EngineOptions:
    """What the options of `add_engine` say."""
    return EngineOptions(
        name=options.engine,
        precision=options.precision,
        compute_units=options.compute_units,
        prepacked=options.prepacked,
        device=options.device,
        limits=limits_of(options),
    )


def fetch_bundles(options: argparse.Namespace) -> None:
    """Put the folder of each bundle in the place of its address on the hub, and say which commit it
    is where the address does not. Raises `InputError` if one cannot be had."""
    for name, given in list(vars(options).items()):
        if isinstance(given, Path):
            setattr(options, name, _fetched(given))
        elif isinstance(given, list):
            setattr(options, name, [_fetched(x) if isinstance(x, Path) else x for x in given])


def _fetched(place: Path) -> Path:
    if (address := hub_address(place)) is None:
        return place
    folder = bundle_folder(place)
    if address.revision != folder.name:
        pinned = f"hf://{address.repository}@{folder.name}"
        print(f"({bundle_name(folder)}; {pinned} is always this one)", file=sys.stderr)
    return folder


def run_command(run: Callable[[], int], interrupted: str = "\ninterrupted") -> int:
    """Return what `run` returns, or 2 after a mistake that the user can correct, 130 after Ctrl-C,
    141 when nobody reads the output any more. Letters that the terminal's encoding lacks become
    question marks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = run()
        if sys.stdout is not None:  # closed by the shell
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _write_nowhere()
        return _PIPE_CLOSED
    except (InputError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(
            f"error: there is not enough memory for this ({str(error)[:200] or 'MemoryError'}); "
            "close other programs, or give smaller inputs.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED


def _write_nowhere() -> None:
    """Let what is still buffered go nowhere when Python ends."""
    with suppress(OSError, ValueError, AttributeError):  # of a stream that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
