"""Golden vectors: what PyTorch computes for a few chats, stored in the bundle for the device.

`golden/chats.json` lists chats, token ids and picture files; `golden/arrays.safetensors` holds one
float32 array per stage, named `<chat>.<stage>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mobile_runtime.bundle import list_files, read_manifest, write_manifest
from mobile_runtime.chat.conversation import PreparedPrompt
from mobile_runtime.chat.messages import collect_media, read_turns
from mobile_runtime.files import replace_folder, scratch_folder
from mobile_runtime.pictures.preprocess import patches
from validation.chats import NamedChat
from validation.parity.trace import prepare_chat, trace_reference
from validation.reference.reference import Reference
from validation.sources import OpenCheckpoint, prepared_like

FOLDER = "golden"
NEW_TOKENS = 16


def write_golden(bundle: Path, source: OpenCheckpoint, chats: Sequence[NamedChat]) -> None:
    """Replace the bundle's golden folder and list its files in the manifest. `source` is the
    checkpoint that the bundle was made from."""
    manifest, source = read_manifest(bundle), prepared_like(bundle, source)
    with scratch_folder(bundle / FOLDER) as partial:
        entries: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        reference = Reference(source.config, source.checkpoint)
        prompts = [prepare_chat(source, named.chat) for named in chats]
        traces = trace_reference(reference, prompts, NEW_TOKENS, source.chat_format)
        for named, prompt, trace in zip(chats, prompts, traces, strict=True):
            pictures = _save_pictures(named, partial)
            entries.append(_entry(named.name, pictures, prompt, trace))
            stages = _stages(reference, prompt, trace)
            arrays |= {f"{named.name}.{stage}": value for stage, value in stages.items()}
        (partial / "chats.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
        save_file(arrays, partial / "arrays.safetensors")
        replace_folder(partial, bundle / FOLDER)
    kept = {entry.path for entry in manifest.files}
    files = [e for e in list_files(bundle) if e.path in kept or e.path.startswith(f"{FOLDER}/")]
    write_manifest(bundle, replace(manifest, files=tuple(files)))


def _save_pictures(named: NamedChat, folder: Path) -> list[str]:
    """Write the chat's pictures to `folder`; return their names."""
    names = []
    for n, media in enumerate(collect_media(read_turns(named.chat.messages))):
        names.append(f"{named.name}_{n}.png")
        media.source.save(folder / names[-1])
    return names


def _entry(
    name: str, pictures: Sequence[str], prompt: PreparedPrompt, trace: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    return {
        "name": name,
        "pictures": pictures,
        "text": prompt.encoded.text,
        "input_ids": prompt.encoded.input_ids.tolist(),
        "image_bound": prompt.encoded.image_bound.tolist(),
        "temporal_ids": [list(group.temporal_ids) for group in prompt.encoded.groups],
        "tgt_sizes": prompt.tgt_sizes.tolist(),
        "greedy_tokens": trace["greedy_tokens"].tolist(),
    }


def _stages(
    reference: Reference, prompt: PreparedPrompt, trace: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    arrays = {"logits": trace["logits"]}
    for n, (views, embeds) in enumerate(zip(prompt.groups, trace["image_embeds"], strict=True)):
        arrays[f"image_embeds.{n}"] = embeds
        for m, view in enumerate(views):
            arrays[f"patches.{n}.{m}"] = patches(view)
            arrays[f"image_features.{n}.{m}"] = reference.encode_view(view)
    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}
