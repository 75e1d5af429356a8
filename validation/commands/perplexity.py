"""`python -m validation perplexity BUNDLE…`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from validation.commands.options import check_least

HELP = "perplexity of a text under bundles and PyTorch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="bundle folders")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 file")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of the text that are read")
    parser.add_argument("--checkpoint", help="also under PyTorch with this folder or hub id")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from validation.perplexity import measure_bundles, print_losses, write_losses
    from validation.sources import open_checkpoint

    check_least("--tokens", options.tokens, 2)
    text = options.text.read_text(encoding="utf-8", errors="replace")
    source = open_checkpoint(options.checkpoint) if options.checkpoint else None
    losses = list(measure_bundles(options.bundles, text, options.tokens, source))
    print_losses(losses, Console(highlight=False))
    if options.json is not None:
        write_losses(losses, options.json)
        print(options.json)
    return 0
