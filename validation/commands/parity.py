"""`python -m validation parity BUNDLE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_runtime.command import Terminal, add_engine_name
from mobile_runtime.model.hub import check_changeable
from validation.commands.options import (
    add_bundle,
    add_checkpoint,
    add_precision,
    check_least,
    checkpoint_of,
    engine_options,
    named_chats,
)

HELP = "compare a saved bundle with PyTorch, stage by stage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_bundle(parser)
    add_checkpoint(parser)
    parser.add_argument("--messages", type=Path, action="append", help="chat file; may be repeated")
    parser.add_argument(
        "--stages",
        nargs="+",
        help="run only these, by the names of stages or packages, and load no more than they need",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=8, help="tokens that follow each prompt"
    )
    parser.add_argument("--output", type=Path, help="default: report.json in the bundle")
    parser.add_argument("--write-golden", action="store_true", help="store vectors for the device")
    add_engine_name(parser)
    add_precision(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0, or 1 if a stage fails."""
    from validation.chats import default_chats
    from validation.parity.golden import write_golden
    from validation.parity.parity import ParityOptions, run_parity
    from validation.sources import published_source

    if options.output is None or options.write_golden:
        check_changeable(options.bundle, "give --output, or copy the folder and judge the copy")
    check_least("--max-new-tokens", options.max_new_tokens, 0)
    chats = named_chats(options.messages)
    wanted = ParityOptions(engine_options(options), options.max_new_tokens, options.stages)
    source = published_source(options.bundle, checkpoint_of(options))
    report = run_parity(options.bundle, source, chats, wanted)
    if options.write_golden:
        write_golden(options.bundle, source, default_chats())
    report.print(Terminal())
    path = options.output or options.bundle / "report.json"
    report.write(path)
    print(path)
    return int(report.failed)
