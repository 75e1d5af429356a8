"""`python -m validation benchmark BUNDLE`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress as ProgressBar

from mobile_runtime.command import BUNDLE_HELP, Terminal, add_engine_name
from mobile_runtime.errors import InputError
from mobile_runtime.files import check_place
from validation.commands.options import (
    PRECISION_HELP,
    PRECISIONS,
    add_checkpoint,
    check_least,
    checkpoint_of,
    engine_options,
)

if TYPE_CHECKING:
    from validation.benchmark.run import Candidate

HELP = "how a bundle does on suites with exact answers, beside its checkpoint or another bundle"
SUITES = ("quick", "ocr", "text")
_LIMIT = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("bundle", type=Path, nargs="?", help=BUNDLE_HELP)
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0], help="default: quick")
    parser.add_argument(
        "--limit",
        type=int,
        default=_LIMIT,
        help="items of a task: questions, strings to copy, or stretches of 512 tokens of a text",
    )
    add_checkpoint(parser)
    add_engine_name(parser)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help=PRECISION_HELP)
    parser.add_argument("--bundle-only", action="store_true", help="leave the checkpoint out")
    parser.add_argument(
        "--json",
        type=Path,
        help="also write all answers and figures to this file; a run that was stopped goes on",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar="FILE",
        help="run nothing: compare the bundles of two results on their common items",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from validation.benchmark.report import compare

    if options.compare is not None:
        first, second = options.compare
        compare(first, second, Terminal())
        return 0
    if options.bundle is None:
        raise InputError("there is no bundle to run; give its folder, or two files to --compare.")
    check_least("--limit", options.limit, 1)
    if options.json is not None:
        check_place(options.json)
    return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    from validation.benchmark.report import Result, print_result
    from validation.benchmark.run import NEW_TOKENS, Log, bundle_candidate, make_items, run_suite
    from validation.benchmark.suites import SUITES, digest

    candidate, session = bundle_candidate(options.bundle, engine_options(options))
    candidates, not_run = [candidate], {}
    try:
        if not options.bundle_only:
            candidates.append(_checkpoint(options))
    except InputError as reason:
        if options.checkpoint is not None:
            raise
        not_run["checkpoint"] = {"all tasks": str(reason)}
    tasks = SUITES[options.suite]
    items, missing = make_items(tasks, options.limit, session)
    protocol = {
        "suite": options.suite,
        "limit": options.limit,
        "answers": f"greedy, at most {NEW_TOKENS} tokens",
        "items": {name: digest(made) for name, made in items.items()},
    }
    models = {one.name: dict(one.facts) for one in candidates}
    beside = options.json and options.json.with_name(options.json.name + ".part")
    log = Log(beside, {"protocol": protocol, "models": models})
    with ProgressBar(console=Terminal(stderr=True), transient=True) as bar:
        total = len(candidates) * sum(map(len, items.values()))
        progress = bar.add_task("items", total=total)
        found, reasons = run_suite(candidates, items, log, lambda: bar.advance(progress))
    for one in candidates:
        not_run[one.name] = {**missing, **reasons.get(one.name, {})}
    metrics = {name: task.metric for name, task in tasks.items()}
    result = Result(protocol, metrics, models, found, not_run)
    print_result(result, Terminal())
    if options.json is not None:
        result.write(options.json)
        log.close()
        print(options.json)
    return 0


def _checkpoint(options: argparse.Namespace) -> Candidate:
    """PyTorch with the checkpoint that the bundle was made from. Raises `InputError` if it is not
    at hand, or another one."""
    from mobile_runtime.bundle import read_manifest
    from validation.benchmark.run import checkpoint_candidate
    from validation.sources import check_source, published_source

    manifest = read_manifest(options.bundle)
    source = published_source(options.bundle, checkpoint_of(options))
    check_source(manifest, source)
    return checkpoint_candidate(source, manifest.source.name, manifest.source.sha256)
