"""Reads Markdown pages for the tests: blocks of code with their marks, commands, links, anchors."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

# What a reader is led to, and what the links of it lead to.
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "ios_bridge/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
LINKED = (*PAGES, ROOT / "export/pocket/README.md", ROOT / "tests/golden/README.md")

_BLOCK = re.compile(
    r"^(?:<!-- (?P<key>not run|file): (?P<value>[^\n]+?) -->\n)?"
    r"(?P<ticks>```)(?P<language>[a-z]*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_INDENTED = re.compile(r"(?:(?<=\n\n)|^)(?:    [^\n]+\n)+", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of code; `reason` says why no test runs it, `file` what it is the content of."""

    page: str
    language: str
    body: str
    reason: str | None
    file: str | None

    def commands(self):
        """The words of each command line, without comments."""
        lines = self.body.replace("\\\n", " ").splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
        return [line for line in words if line]

    @property
    def is_shell(self):
        return self.language in ("bash", "")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """All blocks of a page: fenced ones, and indented ones as commands."""
    return read_blocks(page.read_text(encoding="utf-8"), name_of(page))


def read_blocks(text, name):
    found = []
    for match in _BLOCK.finditer(text):
        marks = {match["key"]: match["value"]}
        reason, file = marks.get("not run"), marks.get("file")
        found.append(Block(name, match["language"], match["body"], reason, file))
    for match in _INDENTED.finditer(_BLOCK.sub("", text)):
        body = "".join(line[4:] for line in match[0].splitlines(keepends=True))
        found.append(Block(name, "", body, None, None))
    return found


def prose(page):
    """The text of a page without blocks and comments."""
    return _COMMENT.sub("", _BLOCK.sub("", page.read_text(encoding="utf-8")))


def inline_code(page):
    return _INLINE.findall(prose(page))


def links(page):
    return _LINK.findall(prose(page))


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    seen, found = {}, set()
    for heading in _HEADING.findall(prose(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(slug if count == 0 else f"{slug}-{count}")
    return found


def target_of(page, link):
    """The file that a relative link leads to, and its anchor."""
    path, _, anchor = link.partition("#")
    return (Path(page.parent, path).resolve() if path else page), anchor
