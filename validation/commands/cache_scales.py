"""`python -m validation cache-scales BUNDLE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_runtime.model.hub import check_changeable
from validation.commands.options import add_bundle, check_least, named_chats

HELP = "measure the scales of an ONNX bundle's 8-bit key/value cache, and store them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_bundle(parser)
    parser.add_argument("--messages", type=Path, action="append", help="chat file; may be repeated")
    parser.add_argument(
        "--max-new-tokens", type=int, default=64, help="tokens to continue each chat by"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from validation.cache_scales import store_measured_scales

    check_changeable(options.bundle, "copy the folder and measure the copy")
    check_least("--max-new-tokens", options.max_new_tokens, 0)
    chats = named_chats(options.messages)
    record = store_measured_scales(options.bundle, chats, options.max_new_tokens)
    print(
        f"{record['positions']} positions of {', '.join(record['chats'])}; the median scale is "
        f"{record['median_ratio_to_data_free']:.2f} × the one known without data"
    )
    return 0
