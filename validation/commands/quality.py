"""`python -m validation quality BUNDLE…`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from validation.commands.options import add_engine, add_precision, check_least, engine_options

HELP = "what bundles keep of the checkpoint's next tokens, on texts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="bundle folders")
    parser.add_argument(
        "--texts", type=Path, nargs="+", required=True, metavar="FILE", help="UTF-8 files"
    )
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of each text")
    parser.add_argument("--checkpoint", help="folder or hub id; default: the pocket model")
    add_engine(parser)
    add_precision(parser)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from validation.quality.measure import measure_text, open_candidates
    from validation.quality.report import Quality, print_qualities, write_qualities
    from validation.sources import published_source

    check_least("--tokens", options.tokens, 2)
    texts = {
        path.name: path.read_text(encoding="utf-8", errors="replace") for path in options.texts
    }
    source = published_source(options.bundles[0], options.checkpoint)
    candidates = open_candidates(options.bundles, engine_options(options), source)
    bits = {candidate.name: candidate.bits for candidate in candidates}
    rows = [
        Quality.of(name, text, bits[name], scores)
        for text, content in texts.items()
        for name, scores in measure_text(candidates, source, content, options.tokens).items()
    ]
    print_qualities(rows, Console(highlight=False))
    if options.json is not None:
        write_qualities(rows, options.json)
        print(options.json)
    return 0
