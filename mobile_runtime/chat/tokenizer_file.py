"""The one shape of tokenizer.json that is read: byte-level byte-pair encoding as Qwen2's.

What the shape does not need is ignored, what contradicts it is refused: normalizers, patterns and
paddings of other shapes can take any time and memory. `TokenizerFile.swift` reads the same shape.
Here words may also be GPT-2's with digits on their own, as small models that are measured have it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json

# How Qwen2's tokenizer cuts text before byte-pair encoding.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MAX_ID = 1 << 24  # larger ids are taken for damage
_PLAIN = (None, False, "")
_OF_OTHER_MODELS = (
    *("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"),
    *("byte_fallback", "ignore_merges"),
)


def byte_alphabet() -> dict[str, int]:
    """Map each printable character of a byte-level vocabulary to the byte that it stands for.

    Printable Latin-1 characters stand for themselves, other bytes for U+0100 onwards (GPT-2).
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + n): b for n, b in enumerate(hidden)}


_LETTERS = frozenset(byte_alphabet())


@dataclass(frozen=True)
class AddedToken:
    """A token that text never becomes."""

    id: int
    content: str
    special: bool


class _Unsupported(Exception):
    """What is wrong with a file, in words that follow its name."""


def load_tokenizer(path: Path, remedy: str) -> tuple[tokenizers.Tokenizer, tuple[AddedToken, ...]]:
    """Read a tokenizer.json: the library's tokenizer, and its added tokens. Raises `InputError`,
    whose text ends with `remedy`, if it is missing or of another shape."""
    value = read_json(path, remedy)
    if _field(value, "decoder", "type") != "ByteLevel":
        raise InputError(f"{path} is not a byte-level tokenizer.json; {remedy}.")
    try:
        added = _added(value.get("added_tokens") or [])
        plain = _plain(value, added)
        return tokenizers.Tokenizer.from_str(json.dumps(plain)), added
    except Exception as error:  # the library raises nothing narrower
        raise InputError(
            f"{path} is not a tokenizer that this program reads ({str(error)[:200]}); {remedy}."
        ) from error


def _field(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _plain(value: Mapping[str, Any], added: tuple[AddedToken, ...]) -> dict[str, Any]:
    """The same tokenizer with nothing in it but what was checked."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        # The library keeps only tokens marked special out of ordinary text; <think> is not marked.
        "added_tokens": [
            {"id": token.id, "content": token.content, "special": True, **flags} for token in added
        ],
        "normalizer": _normalizer(value.get("normalizer")),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _steps(value.get("pre_tokenizer"))},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
        | {"use_regex": True},
        "model": _model(value.get("model")),
    }


def _normalizer(value: Any) -> dict[str, str] | None:
    if value is not None and _field(value, "type") != "NFC":
        raise _Unsupported("its normalizer is neither absent nor NFC")
    return None if value is None else {"type": "NFC"}


def _steps(value: Any) -> list[dict[str, Any]]:
    """Those that cut text into words and turn these into bytes."""
    steps = _field(value, "pretokenizers")
    first, byte_level = steps if isinstance(steps, list) and len(steps) == 2 else (None, None)
    plain = (
        _field(value, "type") == "Sequence"
        and _field(byte_level, "type") == "ByteLevel"
        and _field(byte_level, "add_prefix_space") is False
    )
    by_pattern = (
        _field(first, "type") == "Split"
        and _field(first, "pattern", "Regex") == WORD_PATTERN
        and _field(first, "behavior") == "Isolated"
        and _field(first, "invert") is not True
        and _field(byte_level, "use_regex") is False
    )
    by_digits = (
        _field(first, "type") == "Digits"
        and _field(first, "individual_digits") is True
        and _field(byte_level, "use_regex") is True
    )
    if not plain or not (by_pattern or by_digits):
        raise _Unsupported("its pre_tokenizer does not cut text as Qwen2's does")
    pattern = {"Regex": WORD_PATTERN}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    digits = {"type": "Digits", "individual_digits": True}
    octets = {"type": "ByteLevel", "trim_offsets": True, "add_prefix_space": False}
    return [split if by_pattern else digits, {**octets, "use_regex": by_digits}]


def _added(entries: Any) -> tuple[AddedToken, ...]:
    if not isinstance(entries, list):
        raise _Unsupported("its added_tokens are not a list")
    kinds = {"id": int, "content": str, "special": bool}
    for entry in entries:
        if any(type(_field(entry, name)) is not kind for name, kind in kinds.items()):
            raise _Unsupported("an added token lacks its id, content or kind")
        if not 0 <= entry["id"] < _MAX_ID:
            raise _Unsupported("an added token lacks its id, content or kind")
    return tuple(AddedToken(*(entry[name] for name in kinds)) for entry in entries)


def _model(value: Any) -> dict[str, Any]:
    wrong = [name for name in _OF_OTHER_MODELS if _field(value, name) not in _PLAIN]
    if _field(value, "type") != "BPE" or wrong:
        raise _Unsupported(f"its model is not plain BPE: {', '.join(wrong)}")
    vocab, merges = value.get("vocab"), value.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise _Unsupported("its model has no vocab or no merges")
    for token, number in vocab.items():
        if type(number) is not int or not 0 <= number < _MAX_ID or not _LETTERS.issuperset(token):
            raise _Unsupported(f"{token[:40]!r} is no byte-level token with an id")
    return {"type": "BPE", "vocab": vocab, "merges": merges}
