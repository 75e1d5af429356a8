"""Texts of every kind for the tokenizer's tests, from what is on any machine, seeded."""

import random
import sysconfig
from pathlib import Path

from tests.paths import ROOT

SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<image>", "</image>"),
    *("<slice>", "</slice>", "<image_id>", "</image_id>", "<unk>", "<box>", "<|reserved_0|>"),
    *("<|im_start", "|>", "<un", "(<image>./</image>)", "< unk>", "<tool_call>"),
)
ENGLISH = (
    "it's don't we're I've I'm they'll he'd IT'S DON'T WE'RE o'clock 'tis 'quoted' it'ſ "
    "the of and a to in is you that it he was for on are as with his they at Hello World naïve café"
)
CHINESE = (
    "这张图片里有什么？请描述一下画面中的文字。天空是蓝色的，"
    "山上有雪。第1章：数据2024年5月3日，价格￥99.50元。「你好」"
)
EMOJI = "😀🎉🏴‍☠️👩‍👩‍👧‍👦🇨🇳👍🏽❤️‍🔥1️⃣☺🧑🏻‍💻"
SPACES = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
MARKS = "e\u0301 a\u0323\u0302 \u1100\u1161\u11a8 각 \ufb01 \u212b \u0344 \u0958 \u2126 ก็ नि"
# Blocks of scripts, symbols and letters of late Unicode versions.
RANGES = (
    *((0x00, 0x250), (0x250, 0x600), (0x600, 0x1000), (0x1000, 0x1D00), (0x1C80, 0x1CC0)),
    *((0x1E00, 0x2C00), (0x2C00, 0x3100), (0x3100, 0xAC00), (0xA700, 0xA800), (0xAC00, 0xD7A4)),
    *((0xE000, 0x10000), (0x10000, 0x12000), (0x12000, 0x20000), (0x1F000, 0x1FB00)),
    *((0x20000, 0x33000), (0xE0000, 0xE0200), (0x10FF00, 0x110000)),
)


def source_lines():
    """Lines of programs and prose: the repository's own files and the standard library's."""
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = [*ROOT.glob("*.md"), *ROOT.glob("*/*.py"), *ROOT.glob("mobile_runtime/**/*.py")]
    paths += [*sorted(library.glob("*.py")), *sorted(library.glob("encodings/*.py"))[:40]]
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(paths))
    return [line for line in text.split("\n") if line]


def _piece(rng):
    kind = rng.randrange(11)
    if kind == 0:
        return rng.choice(SPECIAL)
    if kind < 3:
        return rng.choice(ENGLISH.split()) + rng.choice([" ", "", ", ", "  "])
    if kind < 5:
        start = rng.randrange(len(CHINESE))
        return CHINESE[start : start + rng.randint(1, 9)]
    if kind == 5:
        return "".join(rng.choices(EMOJI, k=rng.randint(1, 4)))
    if kind == 6:
        return "".join(rng.choices(SPACES, k=rng.randint(1, 4)))
    if kind == 7:
        return "".join(rng.choices(MARKS, k=rng.randint(1, 6)))
    if kind == 8:
        return rng.choice(["0", "١٢", "½", "12345", "x²", "#include <a.h>", "f(x){}", "\\n", "'''"])
    low, high = rng.choice(RANGES)
    return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 4)))


def mixed_texts(count, seed=0):
    """Random mixtures of everything, line breaks included."""
    rng = random.Random(seed)
    return ["".join(_piece(rng) for _ in range(rng.randint(0, 12))) for _ in range(count)]


def broken_lines(count, seed=1):
    """Lines of bytes that are UTF-8 with errors: bytes changed, left out or doubled."""
    rng = random.Random(seed)
    lines = []
    for text in mixed_texts(count, seed):
        data = bytearray(text.encode())
        for _ in range(rng.randint(0, 4)):
            place = rng.randint(0, len(data))
            data[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        lines.append(bytes(data).replace(b"\n", b" "))
    return lines
