"""What a bundle needs on a device, and which devices leave an app that much: from its manifest.

python ios_bridge/memory_table.py BUNDLE            prints the tables
python ios_bridge/memory_table.py BUNDLE --readme   writes them into this folder's README
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().with_name("README.md")
BEGIN, END = "<!-- memory: ios_bridge/memory_table.py -->", "<!-- end of memory -->"
RESERVE = 1 << 29  # what `MemoryBudget` leaves to the app
_ITEM_SIZES = {"float16": 2, "float32": 4, "int8": 1, "int32": 4}
# Bytes that an app may have with the increased-memory-limit entitlement, as developers report
# them; not measured here, and different from one version of the system to the next.
_DEVICES = (
    ("iPad, 16 GB", 12e9),
    ("iPhone, 12 GB", 6e9),
    ("iPhone, 8 GB; iPad, 8 GB before iPadOS 26.4", 6e9),
    ("iPad, 8 GB from iPadOS 26.4 on", 3e9),
)


def needs(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of each part."""
    weights: dict[str, int] = {}
    cache = 0
    for graph in manifest["graphs"]:
        weights[graph["role"]] = weights.get(graph["role"], 0) + graph["weight_bytes"]
        outside = [] if graph["states"] else graph["functions"][0]["inputs"]
        for tensor in [*graph["states"], *outside]:
            if tensor["name"] == "key_value_cache":
                cache += math.prod(tensor["shape"]) * _ITEM_SIZES[tensor["dtype"]]
    packages = tuple(graph["path"] + "/" for graph in manifest["graphs"])
    sizes = {entry["path"]: entry["size"] for entry in manifest["files"]}
    return {
        "decoder": weights["decoder"],
        "head": weights["lm_head"],
        "cache": cache,
        "vision": weights["vision_encoder"] + weights["resampler"],
        "tables": sum(size for path, size in sizes.items() if path.endswith(".bin"))
        - sum(
            size
            for path, size in sizes.items()
            if path.endswith(".bin") and path.startswith(packages)
        ),
        "bundle": sum(sizes.values()),
        "compiled": sum(size for path, size in sizes.items() if path.startswith(packages)),
    }


def tables(manifest: Mapping[str, Any]) -> str:
    """Both tables as Markdown."""
    part, context = needs(manifest), manifest["decoding"]["context_length"]
    text = part["decoder"] + part["head"] + part["cache"] + RESERVE
    whole = text + part["vision"]
    rows = [
        ("decoder", part["decoder"]),
        ("head", part["head"]),
        (f"key/value cache of a conversation, {context} tokens", part["cache"]),
        ("vision encoder and resampler", part["vision"]),
        ("left to the app (`MemoryBudget.reserve`)", RESERVE),
        ("**answering with pictures**", whole),
        ("**answering text alone**", text),
        ("tables, mapped: pages come and go", part["tables"]),
        ("disk: the bundle", part["bundle"]),
        ("disk: compiled packages", part["compiled"]),
    ]
    lines = [f"`{manifest['model']}`, recipe `{manifest['recipe']['name']}`:", ""]
    lines += _table(("", "GB"), [(name, f"{size / 1e9:.2f}") for name, size in rows])
    lines += ["", *_table(("device", "app may have, GB", "fits"), _devices(whole, text))]
    return "\n".join(lines)


def _devices(whole: int, text: int) -> list[tuple[str, str, str]]:
    return [
        (
            name,
            f"{limit / 1e9:.0f}",
            "yes" if whole <= limit else "text alone" if text <= limit else "no",
        )
        for name, limit in _DEVICES
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in [head, *rows]]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def with_tables(readme: str, manifest: Mapping[str, Any]) -> str:
    """The README with its tables written anew."""
    start, end = readme.index(BEGIN) + len(BEGIN), readme.index(END)
    return f"{readme[:start]}\n{tables(manifest)}\n{readme[end:]}"


if __name__ == "__main__":
    given = json.loads((Path(sys.argv[1]) / "manifest.json").read_text(encoding="utf-8"))
    if "--readme" in sys.argv[2:]:
        README.write_text(with_tables(README.read_text(encoding="utf-8"), given), encoding="utf-8")
    else:
        print(tables(given))
