"""`python -m validation parity|trace`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mobile_runtime.bundle import InputError
from mobile_runtime.engines import ENGINES, EngineOptions
from mobile_runtime.session import Session
from validation.default_prompts import NamedChat, default_chats
from validation.golden import write_golden
from validation.messages import read_chat
from validation.parity import ParityOptions, run_parity
from validation.sources import open_checkpoint, source_of
from validation.trace import trace_bundle, trace_checkpoint, write_arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 when a stage fails, 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m validation", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parity = commands.add_parser("parity", help="compare a saved bundle with PyTorch by stages")
    parity.add_argument("bundle", type=Path)
    parity.add_argument(
        "--checkpoint", help="folder or hub id it was made from (not needed for random weights)"
    )
    parity.add_argument("--messages", type=Path, action="append", help="chat file; may be repeated")
    parity.add_argument("--stages", nargs="+", help="run these stages alone")
    parity.add_argument("--max-new-tokens", type=int, default=8)
    parity.add_argument("--output", type=Path, help="default: report.json in the bundle")
    parity.add_argument("--write-golden", action="store_true", help="store vectors for the device")
    parity.set_defaults(run=_parity)
    trace = commands.add_parser("trace", help="write what PyTorch or a bundle computes for a chat")
    source = trace.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="run fp32 PyTorch with this folder or hub id")
    source.add_argument("--bundle", type=Path, help="run this bundle")
    trace.add_argument("--messages", type=Path, required=True, help="chat file")
    trace.add_argument("--output", type=Path, required=True, help="npz file to write")
    trace.add_argument("--max-new-tokens", type=int, default=16)
    trace.set_defaults(run=_trace)
    for command in (parity, trace):
        command.add_argument("--engine", choices=["auto", *ENGINES], default="auto")
        command.add_argument(
            "--precision",
            choices=("fp32", "fp16"),
            default="fp32",
            help="of the interpreter; fp16 rounds as the device does",
        )
    return parser


def _engine(options: argparse.Namespace) -> EngineOptions:
    return EngineOptions(name=options.engine, precision=options.precision)


def _parity(options: argparse.Namespace) -> int:
    if options.max_new_tokens < 0:
        raise InputError(f"--max-new-tokens is {options.max_new_tokens}; give 0 or more.")
    chats = [NamedChat(path.stem, read_chat(path)) for path in options.messages or ()]
    chats = chats or default_chats()
    wanted = ParityOptions(_engine(options), options.max_new_tokens, options.stages)
    with source_of(options.bundle, options.checkpoint) as source:
        report = run_parity(options.bundle, source, chats, wanted)
        if options.write_golden:
            write_golden(options.bundle, source, default_chats())
    report.print(Console(highlight=False))
    path = options.output or options.bundle / "report.json"
    report.write(path)
    print(path)
    return int(report.failed)


def _trace(options: argparse.Namespace) -> int:
    if options.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens is {options.max_new_tokens}; give 1 or more.")
    chat = read_chat(options.messages)
    if options.checkpoint is not None:
        arrays = trace_checkpoint(open_checkpoint(options.checkpoint), chat, options.max_new_tokens)
    else:
        session = Session.load(options.bundle, _engine(options))
        arrays = trace_bundle(session, chat, options.max_new_tokens)
    write_arrays(options.output, arrays)
    print(options.output)
    return 0
