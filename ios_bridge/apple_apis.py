"""Writes the README's list of the Apple APIs that the package calls.

`Tests/Stubs` declares them, each with the systems that have it: Linux checks the sources against
these declarations, so that a call which is not listed does not pass.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
STUBS = FOLDER / "Tests/Stubs"
README = FOLDER / "README.md"
BEGIN, END = "<!-- apis: ios_bridge/apple_apis.py -->", "<!-- end of apis -->"

_AVAILABLE = re.compile(r"@available\(iOS ([\d.]+)(?:, macOS ([\d.]+))?, \*\)")
_NAME = r"(?:public |indirect |final |static |class |override |nonisolated )*"
_TYPE = re.compile(
    rf"{_NAME}(?:class|struct|enum|protocol|extension|actor) (?!var |func )(\w+)[^(]*\{{"
)
_MEMBER = re.compile(rf"{_NAME}(?:func|var|let|case) (\w+)(.*)")
_INIT = re.compile(r"public init\??(.*)")
_LABEL = re.compile(r"(\w+)(?: \w+)?: ")


@dataclass(frozen=True)
class Api:
    """One type, function, property or case, and the first systems that have it."""

    module: str
    name: str
    ios: str
    macos: str | None


def read_apis(stub: Path) -> Iterator[Api]:
    """Everything that a stub declares, in its order."""
    inside: list[tuple[str, tuple[str, str | None] | None]] = []
    depth: list[int] = []
    level, own = 0, None
    statements = iter(_statements(stub.read_text(encoding="utf-8")))
    for line in statements:
        if found := _AVAILABLE.search(line):
            own = (found[1], found[2])
            continue
        name, is_type = _declared(line)
        if name:
            since = own or (inside[-1][1] if inside else None)
            path = ".".join([*(outer for outer, _ in inside), name])
            if since and "extension" not in line:
                yield Api(stub.stem, path, *since)
            if is_type and line.count("{") > line.count("}"):
                inside.append((name, since))
                depth.append(level)
            own = None
        level += line.count("{") - line.count("}")
        while depth and level <= depth[-1]:
            inside.pop()
            depth.pop()


def _statements(text: str) -> Iterator[str]:
    """Lines without comments; a declaration whose arguments fill several lines is one. What only
    makes a declaration whole is marked as not called."""
    pending = ""
    for line in text.splitlines():
        if line.endswith("// not called"):
            continue
        code = line.split("//")[0].strip()
        if not code or code.startswith("import"):
            continue
        pending = f"{pending} {code}".strip()
        if pending.count("(") == pending.count(")"):
            yield pending
            pending = ""


def _declared(line: str) -> tuple[str | None, bool]:
    if found := _TYPE.match(line):
        return found[1], True
    if found := _INIT.match(line):
        return f"init({_labels(found[1])})", False
    if found := _MEMBER.match(line):
        is_function = "func " in line
        return found[1] + (f"({_labels(found[2])})" if is_function else ""), False
    return None, False


def _labels(arguments: str) -> str:
    inner = arguments[arguments.index("(") + 1 :]
    level, end = 1, len(inner)
    for place, letter in enumerate(inner):
        level += (letter == "(") - (letter == ")")
        if level == 0:
            end = place
            break
    flat = re.sub(r"\([^()]*\)|<[^<>]*>|\[[^\[\]]*\]", "", inner[:end])
    return "".join(f"{part.split()[0].rstrip(':')}:" for part in flat.split(",") if part.strip())


def table() -> str:
    """The list as Markdown, by module and age."""
    lines = ["| framework | API | iOS | macOS |", "|---|---|---|---|"]
    for stub in sorted(STUBS.glob("*.swift")):
        for api in read_apis(stub):
            lines.append(f"| {api.module} | `{api.name}` | {api.ios} | {api.macos or '–'} |")
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """The README with its list written anew."""
    start, end = readme.index(BEGIN) + len(BEGIN), readme.index(END)
    return f"{readme[:start]}\n{table()}\n{readme[end:]}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        print(table())
    else:
        README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
