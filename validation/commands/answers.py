"""`python -m validation answers BUNDLE…`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress as ProgressBar

from mobile_runtime.bundle import read_manifest
from mobile_runtime.command import Terminal, add_engine_name
from mobile_runtime.engines import EngineOptions
from validation.answers.rows import ITEMS, ROWS
from validation.commands.options import (
    PRECISION_HELP,
    PRECISIONS,
    add_checkpoint,
    check_least,
    checkpoint_of,
)

if TYPE_CHECKING:
    from validation.answers.answers import Candidate

HELP = "how often bundles and PyTorch answer rightly"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "bundles",
        type=Path,
        nargs="*",
        metavar="BUNDLE",
        help="bundle folders; none: only the checkpoint",
    )
    add_checkpoint(parser)
    parser.add_argument("--limit", type=int, default=ITEMS, help="questions per task")
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=ROWS,
        default=tuple(ROWS),
        metavar="TASK",
        help=f"default: all of {', '.join(ROWS)}",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=("fp16",),
        help=f"{PRECISION_HELP}; one column each",
    )
    add_engine_name(parser)
    parser.add_argument("--jobs", type=int, help="processes; default: one per core")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from validation.answers.answers import score_candidates

    check_least("--limit", options.limit, 1)
    check_least("--jobs", options.jobs, 1)
    candidates = _candidates(options)
    console = Terminal(stderr=True)
    with ProgressBar(console=console, transient=True) as bar:
        total = len(candidates) * len(options.tasks) * options.limit
        task = bar.add_task("questions", total=total)
        report = score_candidates(
            candidates, options.tasks, options.limit, options.jobs, lambda: bar.advance(task)
        )
    report.print(Terminal())
    if options.json is not None:
        report.write(options.json)
        print(options.json)
    return 0


def _candidates(options: argparse.Namespace) -> list[Candidate]:
    """PyTorch, then each bundle in each precision; all must be of one checkpoint."""
    from validation.answers.answers import Candidate, candidate_name
    from validation.sources import check_source, open_checkpoint, published_source

    bundles: list[Path] = options.bundles
    checkpoint = checkpoint_of(options)
    source = published_source(bundles[0], checkpoint) if bundles else open_checkpoint(checkpoint)
    candidates = [Candidate("PyTorch fp32", checkpoint)]
    for bundle in bundles:
        manifest = read_manifest(bundle)
        check_source(manifest, source)
        for precision in options.precision:
            engine = EngineOptions(options.engine, precision, device=options.device)
            name = candidate_name(manifest, precision)
            candidates.append(Candidate(name, bundle=bundle, engine=engine))
    return _told_apart(candidates)


def _told_apart(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same; those of one name, such as bundles of one recipe calibrated on other examples, are
    named by their folders as well."""
    named = Counter(candidate.name for candidate in candidates)
    return [
        candidate if named[candidate.name] == 1 else replace(candidate, name=_long_name(candidate))
        for candidate in candidates
    ]


def _long_name(candidate: Candidate) -> str:
    return f"{candidate.name} ({candidate.bundle})"
