"""`python -m validation trace`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_runtime.command import add_engine_name
from mobile_runtime.errors import InputError
from validation.commands.options import (
    add_adapter,
    add_precision,
    check_least,
    checkpoint_of,
    engine_options,
)

HELP = "write what PyTorch or a bundle computes for a chat, as arrays"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="run fp32 PyTorch with this folder or hub id")
    source.add_argument("--bundle", type=Path, help="run this bundle")
    add_adapter(parser)
    parser.add_argument("--messages", type=Path, required=True, help="chat file")
    parser.add_argument("--output", type=Path, required=True, help="npz file to write")
    parser.add_argument(
        "--max-new-tokens", type=int, default=16, help="tokens to continue the chat by"
    )
    add_engine_name(parser)
    add_precision(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0."""
    if options.adapter and options.bundle is not None:
        raise InputError("--adapter goes with --checkpoint; a bundle holds its adapters already.")
    from mobile_runtime.chat.chat_file import read_chat
    from mobile_runtime.session import Session
    from validation.parity.trace import trace_bundle, trace_checkpoint, write_arrays
    from validation.sources import open_checkpoint

    check_least("--max-new-tokens", options.max_new_tokens, 1)
    chat = read_chat(options.messages)
    if options.checkpoint is not None:
        arrays = trace_checkpoint(
            open_checkpoint(checkpoint_of(options)), chat, options.max_new_tokens
        )
    else:
        session = Session.load(options.bundle, engine_options(options))
        arrays = trace_bundle(session, chat, options.max_new_tokens)
    write_arrays(options.output, arrays)
    print(options.output)
    return 0
