"""What a bundle holds and needs, as the command info prints it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from mobile_runtime.bundle import Manifest

# Bytes per number in the key/value cache. Core ML keeps float16 in both of its forms.
_CACHE_ITEM_BYTES = {"state": 2, "io": 2, "float32": 4, "int8": 1}


def print_bundle(manifest: Manifest, console: Console) -> None:
    """Print a table of the parts, and some sentences. The files must have been verified."""
    table = Table("part", "functions", "parameters", "MB", "bits/weight")
    for graph in manifest.graphs:
        table.add_row(
            graph.name,
            ", ".join(function.name for function in graph.functions),
            f"{graph.parameters:,}",
            f"{graph.weight_bytes / 1e6:,.1f}",
            f"{8 * graph.weight_bytes / max(1, graph.parameters):.2f}",
        )
    console.print(table)
    for line in _facts(manifest):
        console.print(line)


def _facts(manifest: Manifest) -> list[str]:
    weights = sum(graph.weight_bytes for graph in manifest.graphs)
    cache = _cache_bytes(manifest)
    total = sum(entry.size for entry in manifest.files)
    source = manifest.source
    return [
        f"{manifest.model} ({manifest.format}), recipe {manifest.recipe.get('name')}, "
        f"from {source.name}",
        f"context {manifest.decoding.context_length} tokens, prefill "
        f"{manifest.decoding.prefill_length}, key/value cache in {manifest.decoding.kv_cache}",
        f"on disk {total / 1e6:,.1f} MB; in memory {weights / 1e6:,.1f} MB of weights and "
        f"{cache / 1e6:,.1f} MB of cache, embedding table mapped",
        "all checksums match",
    ]


def _cache_bytes(manifest: Manifest) -> int:
    """Bytes of the keys and values of the whole context, as they are stored."""
    shape = manifest.architecture
    values = 2 * shape.num_layers * shape.num_key_value_heads * shape.head_dim
    return _CACHE_ITEM_BYTES[manifest.decoding.kv_cache] * values * manifest.decoding.context_length
