"""The bundle's README.md: what it is, what it holds, how to use it, whose weights they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobile_runtime.bundle import GraphSpec, Manifest

# What the hub calls licences that it knows; to it, any other is one of its own name.
_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "BSD-3-Clause": "bsd-3-clause"}
_TEMPLATE = """\
---
{metadata}
---

# {model}, {format} bundle ({recipe})

{model} for {platforms}.
Made from `{source}`,
SHA-256 of its weights `{sha256}`.

| package | blocks | functions | parameters | MB | bits per weight |
|---|---|---|---|---|---|
{rows}

Context {context} tokens, prefill in blocks of {prefill}, key/value cache: {kv_cache}.
{prepared}Longest view: {max_patches} patches, which holds every picture between 1:20 and 20:1.

## Use

    python -m mobile_runtime info BUNDLE
    python -m mobile_runtime chat BUNDLE --image photo.jpg "What is this?"
    python -m validation parity BUNDLE --checkpoint DIR

`manifest.json` describes every graph's inputs and outputs, the preprocessing constants, the special
tokens and the SHA-256 of every file.

{section}

## Licence of the weights

{license}

## Made with

{tools}
"""


def write_card(path: Path, manifest: Manifest, platforms: str, section: str) -> None:
    """Write the card; every figure comes from the manifest. `section` stands before the licence."""
    path.write_text(
        _TEMPLATE.format(
            metadata=_metadata(manifest),
            model=manifest.model,
            format=manifest.format,
            platforms=platforms,
            section=section.strip(),
            recipe=manifest.recipe["name"],
            prepared=_prepared(manifest.recipe.get("prepared"))
            + _fitted(manifest.recipe.get("fit_half")),
            source=manifest.source.name,
            sha256=manifest.source.sha256,
            rows="\n".join(_row(graph) for graph in manifest.graphs),
            context=manifest.decoding.context_length,
            prefill=manifest.decoding.prefill_length,
            kv_cache=manifest.decoding.kv_cache,
            max_patches=manifest.preprocessing.max_patches,
            license=manifest.source.license,
            tools="\n".join(f"- {name} {version}" for name, version in manifest.tools.items()),
        ),
        encoding="utf-8",
    )


def _metadata(manifest: Manifest) -> str:
    """What the hub's pages and searches read of a card, as YAML, of which JSON is a part."""
    given = manifest.source.license
    named = {} if given in _LICENCES else {"license_name": given}
    fields = {
        "license": _LICENCES.get(given, "other"),
        **named,
        "pipeline_tag": "image-text-to-text",
        "library_name": "minicpmv-mobile",
        "tags": [manifest.format, manifest.recipe["name"], "on-device"],
    }
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in fields.items())


def _prepared(prepared: Mapping[str, Any] | None) -> str:
    """How the weights were prepared before they were stored, a sentence or two."""
    if prepared is None:
        return ""
    rotated = f"The residual stream is rotated (seed {prepared['seed']}).\n"
    if (examples := prepared["examples"]) is None:
        return rotated
    steps = prepared.get("distilled", 0)
    distilled = f"Tables and scales were tuned by distillation, {steps} steps.\n" if steps else ""
    weighted = ", weighted by gradients" if prepared.get("gradients") else ""
    if prepared.get("drift_corrected"):
        weighted += ", each making up for errors of those before it"
    return (
        f"{rotated}The decoder's weights were chosen by error feedback on {examples['chats']} "
        f"chats and {examples['texts']} texts{weighted},\n"
        f"`{examples['name']}`, SHA-256 `{examples['sha256']}`.\n{distilled}"
    )


def _fitted(divisor: int | None) -> str:
    """How activations were made to fit into half precision."""
    if divisor is None:
        return ""
    return (
        f"The residual stream is divided by {divisor}, and key biases of the vision tower are left "
        "out:\nthe same model, with values that half precision holds.\n"
    )


def _row(graph: GraphSpec) -> str:
    functions = ", ".join(function.name for function in graph.functions)
    bits = 8 * graph.weight_bytes / graph.parameters
    return (
        f"| {graph.name} | {graph.blocks[0]}–{graph.blocks[1] - 1} | {functions} "
        f"| {graph.parameters:,} | {graph.weight_bytes / 1e6:,.1f} | {bits:.2f} |"
    )
