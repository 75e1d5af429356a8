"""`python -m docs.generate`: write the pages that come from the code; `--check` only compares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from docs.api import api_page
from docs.commands import commands_page
from docs.devices import devices_page
from docs.rules import rules_page

FOLDER = Path(__file__).parent / "reference"


def generated_pages() -> Mapping[Path, str]:
    """Each generated page's path, and what it has to hold."""
    return {
        FOLDER / "commands.md": commands_page(),
        FOLDER / "python.md": api_page(),
        FOLDER / "rules.md": rules_page(),
        FOLDER / "devices.md": devices_page(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or with `--check` name those that differ and return 1."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args(arguments).check
    stale = 0
    for path, text in generated_pages().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if check:
            print(f"{path} is out of date; run python -m docs.generate", file=sys.stderr)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
