"""`python -m docs.site`: build the site from docs/ and two pages that live beside what they are of.

Pages link to each other and to files of the repository, as GitHub shows them. The site holds the
pages only, so a link to anything else becomes its text.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
OUTPUT = ROOT / ".build" / "docs"
# Pages from elsewhere, and what the site calls them.
_ELSEWHERE = {
    "ios_bridge/README.md": "swift.md",
    "export/pocket/README.md": "pocket.md",
}
_LINK = re.compile(r"\[(?P<text>[^\[\]]+)\]\((?P<target>[^()\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def site_pages() -> Mapping[Path, Path]:
    """Every page's file, and its path in the site."""
    pages = {path: path.relative_to(DOCS) for path in sorted(DOCS.rglob("*.md"))}
    return pages | {ROOT / source: Path(name) for source, name in _ELSEWHERE.items()}


def with_site_links(text: str, source: Path, pages: Mapping[Path, Path]) -> str:
    """`text` of the file `source` with its links as the site has them; code stays as it is."""
    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_relink(text[end : fence.start()], source, pages), fence[0]]
        end = fence.end()
    return "".join([*parts, _relink(text[end:], source, pages)])


def _relink(text: str, source: Path, pages: Mapping[Path, Path]) -> str:
    def replaced(match: re.Match[str]) -> str:
        target, mark, anchor = match["target"].partition("#")
        if not target or ":" in target:
            return match[0]
        file = Path(os.path.normpath(source.parent / target))
        if file not in pages:
            return match["text"]
        path = os.path.relpath(pages[file], pages[source].parent)
        return f"[{match['text']}]({path}{mark}{anchor})"

    return _LINK.sub(replaced, text)


def stage(output: Path) -> None:
    """Write the pages and their configuration into `output`."""
    shutil.rmtree(output, ignore_errors=True)
    pages = site_pages()
    for source, name in pages.items():
        path = output / "pages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8")
        path.write_text(with_site_links(text, source, pages), encoding="utf-8")
    text = (DOCS / "zensical.toml").read_text(encoding="utf-8")
    code = os.path.relpath(ROOT, output)
    (output / "zensical.toml").write_text(text.replace('"../.."', f'"{code}"'), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build; a warning fails. The path of the first page is the last line on stdout."""
    parser = argparse.ArgumentParser(prog="python -m docs.site", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args(arguments).output.resolve()
    stage(output)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run([*command, "--config-file", str(output / "zensical.toml")], check=False)
    if done.returncode == 0:
        print(output / "site" / "index.html")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
