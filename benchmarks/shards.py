"""Tensors that are drawn block by block -> safetensors files, sharded as the published ones are.

The safetensors library writes from memory only. A file is eight bytes of header length, the header
as JSON padded with spaces to a multiple of eight bytes, and the tensors without gaps, in the order
of the header: for one type, that of the names.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.weights import HeavyTailed, Shape

Shapes = Mapping[str, Shape]
Advance = Callable[[int], None]
SHARD_BYTES = 5 << 30  # the published shards end before they would exceed 5 GiB
_PARTS = ("llm.model.embed_tokens", "llm.model.layers", "llm.model.norm", "llm.lm_head", "vpm", "")
_ALIGNMENT = 8


def tensor_bytes(shape: Shape) -> int:
    """Bytes of a bfloat16 tensor."""
    return 2 * int(np.prod(shape))


def assign_shards(shapes: Shapes, limit: int = SHARD_BYTES) -> dict[str, Shapes]:
    """Shard file -> its tensors: filled in the order of the published module, none split."""
    shards: list[dict[str, Shape]] = []
    filled = limit
    for name, shape in sorted(shapes.items(), key=lambda item: _module_order(item[0])):
        size = tensor_bytes(shape)
        if filled + size > limit:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    count = len(shards)
    return {f"model-{n:05d}-of-{count:05d}.safetensors": s for n, s in enumerate(shards, 1)}


def _module_order(name: str) -> tuple[int, int, bool]:
    """Part, decoder layer, norms of the layer last; the rest keeps its order."""
    part = next(n for n, prefix in enumerate(_PARTS) if name.startswith(prefix))
    layer = re.match(r"llm\.model\.layers\.(\d+)\.", name)
    return part, int(layer[1]) if layer else 0, layer is not None and "layernorm" in name


def write_shard(path: Path, shapes: Shapes, threads: int, advance: Advance) -> None:
    """Draw the tensors and write them to `path`; `advance` is called with the bytes of each block.

    The bytes are the same for any number of threads.
    """
    header = safetensors_header(shapes)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(map(tensor_bytes, shapes.values())))

    def write(block: tuple[HeavyTailed, int, int, int]) -> int:
        tensor, offset, begin, end = block
        values = tensor.rows(begin, end).view(np.uint8)
        with path.open("r+b") as file:
            file.seek(offset + 2 * begin * tensor.columns)
            file.write(values.data)
        return values.nbytes

    offset = len(header)
    with ThreadPoolExecutor(threads) as pool:
        for name, shape in sorted(shapes.items()):
            tensor = HeavyTailed(name, shape)
            blocks = [(tensor, offset, begin, end) for begin, end in tensor.blocks()]
            for size in pool.map(write, blocks):
                advance(size)
            offset += tensor_bytes(shape)


def safetensors_header(shapes: Shapes) -> bytes:
    """Everything before the values of bfloat16 tensors that lie in the order of their names."""
    entries, begin = {}, 0
    for name, shape in sorted(shapes.items()):
        end = begin + tensor_bytes(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def write_shards(
    folder: Path, shapes: Shapes, advance: Advance, threads: int | None = None
) -> None:
    """Write all shards and their index to `folder`, with one thread per core by default."""
    shards = assign_shards(shapes)
    for name, tensors in shards.items():
        write_shard(folder / name, tensors, threads or os.cpu_count() or 1, advance)
    index = {
        "metadata": {"total_size": sum(map(tensor_bytes, shapes.values()))},
        "weight_map": {name: shard for shard, tensors in shards.items() for name in tensors},
    }
    text = json.dumps(index, indent=2) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
