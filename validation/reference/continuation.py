"""Greedy continuation of texts (always the most likely token) by the PyTorch reference."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from validation.reference.reference import Reference

Array = np.ndarray


@dataclass
class Continuation:
    """Logits (vocab,) after the text's last position, and the tokens that were chosen."""

    logits: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    tokens: list[int] = field(default_factory=list)


def continue_texts(
    reference: Reference,
    embeddings: Sequence[Array],
    limits: Sequence[int],
    stop: Collection[int] = (),
) -> list[Continuation]:
    """Continue each text (T, D) by at least one token and at most its limit, or up to one of
    `stop`. All texts take a step together, so that a model larger than memory is read once per
    step."""
    layers = range(reference.config.decoder.num_layers)
    found = [Continuation() for _ in embeddings]
    texts = [reference.start(e, len(e) + n) for e, n in zip(embeddings, limits, strict=True)]
    live = list(range(len(texts)))
    while live:
        ended = reference.run_layers([texts[n] for n in live], layers)
        logits = reference.logits(np.concatenate([rows.hidden[-1:] for rows in ended]))
        for n, row in zip(live, logits, strict=True):
            if not found[n].tokens:
                found[n].logits = row
            found[n].tokens.append(int(row.argmax()))
        live = [n for n in live if _goes_on(found[n].tokens, limits[n], stop)]
        for n in live:
            texts[n] = texts[n].followed_by(reference.embed(np.array(found[n].tokens[-1:])))
    return found


def _goes_on(tokens: Sequence[int], limit: int, stop: Collection[int]) -> bool:
    return len(tokens) < limit and tokens[-1] not in stop
