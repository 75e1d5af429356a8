"""Writes the Swift package's Unicode tables: python ios_bridge/unicode_tables.py

Systems disagree about which characters are letters, and change their mind with every release. The
tokenizer's ids depend on it, so the package carries the tables of the `tokenizers` library, which
this script finds by asking the library about every character. `unicodedata` only says what to ask.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers

FOLDER = Path(__file__).parent / "Sources/MiniCPMV/Text"
_SCALARS = [n for n in range(0x110000) if not 0xD800 <= n < 0xE000]
_HANGUL = range(0xAC00, 0xAC00 + 11172)  # decomposed by arithmetic
_OVERLAY, _IOTA = chr(0x334), chr(0x345)  # of the lowest and the highest combining class
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_HEADER = "// Written by ios_bridge/unicode_tables.py; do not edit.\n\n"


def matching(pattern: str) -> list[int]:
    """The characters that a one-character expression matches in the library."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    kept = {c for text in _blocks() for piece, _ in split.pre_tokenize_str(text) for c in piece}
    return [n for n in _SCALARS if chr(n) not in kept]


def _blocks() -> Iterable[str]:
    for start in range(0, len(_SCALARS), 4096):
        yield "".join(map(chr, _SCALARS[start : start + 4096]))


@cache
def _normalizer(form: str) -> Callable[[str], str]:
    made = {"NFC": normalizers.NFC(), "NFD": normalizers.NFD()}[form]
    return lambda text: str(made.normalize_str(text))


def combining_classes() -> dict[int, int]:
    """Canonical combining class of each character to which the library gives one."""
    swaps = _normalizer("NFD")
    classes = {}
    for n in _SCALARS:
        mark, number = chr(n), unicodedata.combining(chr(n))
        if number > 1 and swaps(mark + _OVERLAY) == _OVERLAY + mark:
            classes[n] = number
        if number == 1 and swaps(_IOTA + mark) == mark + _IOTA:
            classes[n] = number
    return classes


def decompositions() -> tuple[dict[int, tuple[int, int]], dict[int, tuple[int, ...]]]:
    """One step of canonical decomposition: of characters that are composed again, and of those
    that never are."""
    composed, other = {}, {}
    for n in _SCALARS:
        if n in _HANGUL or _normalizer("NFD")(chr(n)) == chr(n):
            continue
        parts = tuple(int(part, 16) for part in unicodedata.decomposition(chr(n)).split())
        if len(parts) == 2 and _normalizer("NFC")(chr(n)) == chr(n):
            composed[n] = parts[0], parts[1]
        else:
            other[n] = parts
    return composed, other


def _number(value: int) -> str:
    digits = ""
    while value or not digits:
        value, digit = divmod(value, 36)
        digits = _DIGITS[digit] + digits
    return digits


def _runs(numbers: Iterable[int]) -> list[int]:
    """Gap before and length of each run of consecutive numbers."""
    runs: list[int] = []
    end = 0
    for n in numbers:
        if runs and n == end:
            runs[-1] += 1
        else:
            runs += [n - end, 1]
        end = n + 1
    return runs


def _literal(name: str, comment: str, numbers: Iterable[int]) -> str:
    lines, line = [], ""
    for text in map(_number, numbers):
        if len(line) + 1 + len(text) > 90:
            lines.append(line + " ")
            line = ""
        line += (" " if line else "") + text
    body = "\n".join([*(f"        {text}\\" for text in lines), f"        {line}"])
    return f'    /// {comment}\n    static let {name} = """\n{body}\n        """\n'


def _steps(table: dict[int, tuple[int, ...]], width: int) -> list[int]:
    """Each row: distance of the key from the last one, then the parts, missing ones as 0."""
    numbers, last = [], 0
    for key, parts in sorted(table.items()):
        numbers += [key - last, *parts, *[0] * (width - len(parts))]
        last = key
    return numbers


def classes_source() -> str:
    """CharacterData.swift."""
    tables = [
        ("letters", "General category L: gap before and length of each run.", r"\p{L}"),
        ("numbers", "General category N: gap before and length of each run.", r"\p{N}"),
        ("spaces", "White space: gap before and length of each run.", r"\s"),
    ]
    body = "\n".join(_literal(n, text, _runs(matching(rule))) for n, text, rule in tables)
    about = "/// Classes of characters, numbers in base 36.\n"
    return f"{_HEADER}{about}enum CharacterData {{\n{body}}}\n"


def normalization_source() -> str:
    """NormalizationData.swift."""
    composed, other = decompositions()
    classes = {n: (number,) for n, number in combining_classes().items()}
    row = "Distance from the last character, then"
    body = "\n".join(
        [
            _literal("combining", f"{row} its combining class.", _steps(classes, 1)),
            _literal("composed", f"{row} the two that it is composed of.", _steps(composed, 2)),
            _literal(
                "decomposed",
                f"{row} the one or two (or one and 0) that always replace it.",
                _steps(other, 2),
            ),
        ]
    )
    about = "/// Canonical decomposition and order, Hangul syllables apart; numbers in base 36.\n"
    return f"{_HEADER}{about}enum NormalizationData {{\n{body}}}\n"


SOURCES = {
    "CharacterData.swift": classes_source,
    "NormalizationData.swift": normalization_source,
}

if __name__ == "__main__":
    for file, source in SOURCES.items():
        (FOLDER / file).write_text(source(), encoding="utf-8")
