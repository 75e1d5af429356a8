"""Arrays that a model computes for one chat: from PyTorch, or from a saved bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.checkpoint.rotation import Rotation
from export.releases.half_range import RECORDED
from mobile_runtime.bundle import Manifest
from mobile_runtime.chat.chat_file import Chat
from mobile_runtime.chat.conversation import ChatFormat, PreparedPrompt, prepare_prompt
from mobile_runtime.errors import InputError
from mobile_runtime.files import written_whole
from mobile_runtime.session import ChatOptions, Session
from validation.reference.continuation import continue_texts
from validation.reference.reference import Reference
from validation.sources import OpenCheckpoint

Array = np.ndarray


def prepare_chat(source: OpenCheckpoint, chat: Chat) -> PreparedPrompt:
    """Return the prompt of a chat, prepared with the checkpoint's own files."""
    return prepare_prompt(
        chat.messages, source.chat_format, chat.options, chat.max_slice_nums, chat.folder
    )


def trace_checkpoint(source: OpenCheckpoint, chat: Chat, new_tokens: int) -> dict[str, Array]:
    """Run the chat in fp32 PyTorch."""
    reference = Reference(source.config, source.checkpoint)
    prompt = prepare_chat(source, chat)
    return trace_reference(reference, [prompt], new_tokens, source.chat_format)[0]


def trace_reference(
    reference: Reference,
    prompts: Sequence[PreparedPrompt],
    new_tokens: int,
    chat_format: ChatFormat,
) -> list[dict[str, Array]]:
    """Run each prompt through all stages and continue it greedily."""
    embeds = reference.image_embeds(prompts)
    texts = [reference.splice(p, e) for p, e in zip(prompts, embeds, strict=True)]
    stop = chat_format.prompt.stop_token_ids
    found = continue_texts(reference, texts, [new_tokens] * len(texts), stop)
    size = reference.config.decoder.hidden_size
    return [
        _arrays(prompt, groups, text.logits, text.tokens, size)
        for prompt, groups, text in zip(prompts, embeds, found, strict=True)
    ]


def trace_bundle(session: Session, chat: Chat, new_tokens: int) -> dict[str, Array]:
    """Run the chat with the saved packages."""
    options = ChatOptions(prompt=chat.options, max_slice_nums=chat.max_slice_nums)
    prompt = session.prepare(chat.messages, options, chat.folder)
    context = session.manifest.decoding.context_length
    if len(prompt.keys) + new_tokens > context + 1:
        raise InputError(
            f"{len(prompt.keys)} prompt tokens and {new_tokens} new ones exceed the context of "
            f"{context}; lower --max-new-tokens or export with a larger --context-length."
        )
    first = logits = session.prefill(prompt)
    tokens: list[int] = []
    while not _finished(tokens, new_tokens, session.manifest.prompt.stop_token_ids):
        tokens.append(int(logits.argmax()))
        if len(tokens) < new_tokens:
            logits = session.decode(tokens[-1])
    embeds = [_in_published_basis(rows, session.manifest) for rows in session.image_embeds(prompt)]
    return _arrays(prompt, embeds, first, tokens, session.manifest.architecture.hidden_size)


def _in_published_basis(embeds: Array, manifest: Manifest) -> Array:
    """Embeddings (n, size) of a bundle without the rotation and the division that its export may
    have folded in."""
    embeds = embeds * (manifest.recipe.get(RECORDED) or 1)
    prepared = manifest.recipe.get("prepared")
    if prepared is None:
        return embeds
    return Rotation(embeds.shape[1], prepared["seed"]).undo(embeds)


def _finished(tokens: Sequence[int], limit: int, stop: Sequence[int]) -> bool:
    return len(tokens) >= limit or (bool(tokens) and tokens[-1] in stop)


def _arrays(
    prompt: PreparedPrompt,
    embeds: Sequence[Array],
    logits: Array,
    tokens: Sequence[int],
    size: int,
) -> dict[str, Array]:
    empty = np.zeros((0, 0, size), np.float32)
    return {
        "input_ids": prompt.encoded.input_ids,
        "image_bound": prompt.encoded.image_bound,
        "tgt_sizes": prompt.tgt_sizes,
        "image_embeds": np.stack(embeds) if embeds else empty,
        "logits": logits.astype(np.float32),
        "greedy_tokens": np.array(tokens, np.int32),
    }


def write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Write an npz file in one step: it is complete or absent."""
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
