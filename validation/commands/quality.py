"""`python -m validation quality BUNDLE…`."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from mobile_runtime.command import Terminal, add_engine_name
from mobile_runtime.engines import CPU
from mobile_runtime.errors import InputError
from mobile_runtime.model.hub import check_changeable
from validation.commands.options import (
    add_checkpoint,
    add_precision,
    check_least,
    checkpoint_of,
    engine_options,
)

if TYPE_CHECKING:
    from validation.quality.report import Report

HELP = "what bundles keep of the checkpoint's next tokens, on texts and chats"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="bundle folders")
    parser.add_argument(
        "--texts", type=Path, nargs="+", default=[], metavar="FILE", help="UTF-8 files"
    )
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of each text")
    parser.add_argument(
        "--chats",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="files of examples as a calibration takes them; their chats end with an answer, which "
        "is judged",
    )
    parser.add_argument(
        "--copying",
        action="store_true",
        help="also whether digits, dates and identifiers out of long lists are repeated exactly",
    )
    parser.add_argument(
        "--costs",
        action="store_true",
        help="also which matrices cost most on the texts: one run in PyTorch for each block and "
        "each kind of matrix",
    )
    add_checkpoint(parser)
    add_engine_name(parser)
    add_precision(parser)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--card", action="store_true", help="also write the figures into each bundle's README.md"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from validation.quality.costs import measure_costs
    from validation.quality.judge import judge, judge_copying
    from validation.quality.measure import open_candidates
    from validation.quality.passages import LENGTHS, copy_tasks, of_chats, of_text
    from validation.quality.report import Report
    from validation.sources import published_source

    _check_wanted(options)
    for bundle in options.bundles if options.card else ():
        check_changeable(bundle, "copy the folder and give the copy")
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in options.texts]
    source = published_source(options.bundles[0], checkpoint_of(options))
    candidates = open_candidates(options.bundles, engine_options(options), source)
    longest = min(candidate.longest for candidate in candidates)
    form, console = source.chat_format, Terminal()
    stretches = [of_text(text, form, options.tokens, longest) for text in texts]
    chats = [of_chats(path, form, longest) for path in options.chats]
    names = [path.name for path in (*options.texts, *options.chats)]
    tasks = copy_tasks(form, longest) if options.copying else []
    costs = [
        cost
        for bundle, candidate in zip(options.bundles, candidates, strict=True)
        if options.costs
        for cost in measure_costs(bundle, candidate.name, source, list(chain(*stretches)))
    ]
    report = Report(
        protocol=_protocol(options),
        rows=judge(candidates, source, dict(zip(names, [*stretches, *chats], strict=True))),
        copying=judge_copying(candidates, source, tasks),
        costs=costs,
    )
    report.print(console)
    lengths = {task.length for task in tasks}
    if options.copying and (left := [str(n) for n in LENGTHS if n not in lengths]):
        console.print(f"lists of {', '.join(left)} tokens: not run, the context holds {longest}")
    _write(options, report, [candidate.name for candidate in candidates])
    return 0


def _check_wanted(options: argparse.Namespace) -> None:
    """Raises `InputError` if the options ask for nothing, or for two things of one name."""
    check_least("--tokens", options.tokens, 2)
    if not (options.texts or options.chats or options.copying):
        raise InputError("there is nothing to measure; give --texts, --chats or --copying.")
    if options.costs and not options.texts:
        raise InputError("--costs are measured on texts; give --texts.")
    names = [path.name for path in (*options.texts, *options.chats)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two files are called {twice[0]}; rename one, since figures go by name.")


def _protocol(options: argparse.Namespace) -> dict[str, str]:
    """What figures must share to be compared."""
    files = (*options.texts, *options.chats)
    return {
        "engine": ", ".join([options.engine, options.precision, *_device(options)]),
        "tokens of a text": f"{options.tokens} at most",
        **{f"SHA-256 of {p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }


def _device(options: argparse.Namespace) -> list[str]:
    return [] if options.device == CPU else [str(options.device)]


def _write(options: argparse.Namespace, report: Report, names: Sequence[str]) -> None:
    if options.json is not None:
        report.write(options.json)
        print(options.json)
    for bundle, name in zip(options.bundles, names, strict=True):
        if options.card:
            report.write_card(bundle, name)
            print(bundle / "README.md")
