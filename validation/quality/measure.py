"""Runs bundles and their checkpoint on the same tokens, and compares what they expect next.

A text is cut into stretches, each read from an empty cache. For each token both give a distribution
of the next one; the distance is KL(checkpoint ‖ bundle) in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mobile_runtime.bundle import Manifest
from mobile_runtime.engines import EngineOptions
from mobile_runtime.session import Session
from validation.parity.metrics import log_softmax
from validation.perplexity import bundle_logits, first_tokens, reference_logits, stretches
from validation.reference.reference import Reference
from validation.sources import OpenCheckpoint, check_source

Array = np.ndarray
_STRETCH = 512  # tokens
TOP = (1, 5)


@dataclass(frozen=True)
class Scores:
    """Figures of single tokens (n,): the distance, whether the bundle's first token and five first
    tokens hold the checkpoint's first one, and the loss of the text's own token under both."""

    kl: Array
    top: Mapping[int, Array]
    loss: Array
    reference_loss: Array

    @classmethod
    def of(cls, logits: Array, reference: Array, targets: Array) -> Scores:
        """Compare logits (n, V); `targets` (n,) are the tokens that follow."""
        q, p = log_softmax(logits), log_softmax(reference)
        first, rows = p.argmax(-1), np.arange(len(targets))
        better = (q > q[rows, first][:, None]).sum(-1)
        return cls(
            kl=np.sum(np.exp(p) * (p - q), axis=-1),
            top={k: better < k for k in TOP},
            loss=-q[rows, targets],
            reference_loss=-p[rows, targets],
        )

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """Those of several stretches."""
        return cls(
            kl=np.concatenate([part.kl for part in parts]),
            top={k: np.concatenate([part.top[k] for part in parts]) for k in TOP},
            loss=np.concatenate([part.loss for part in parts]),
            reference_loss=np.concatenate([part.reference_loss for part in parts]),
        )


@dataclass(frozen=True)
class Candidate:
    """A model that is measured. `logits` (n, V) come after each of n token ids that it reads from
    an empty cache, at most `longest` of them. `bits` are those of a weight of the decoder."""

    name: str
    bits: float
    longest: int
    logits: Callable[[Array], Array]


def open_candidates(
    bundles: Sequence[Path], engine: EngineOptions, source: OpenCheckpoint
) -> list[Candidate]:
    """Open bundles. Raises `InputError` if one was made from another checkpoint."""
    candidates, names = [], [bundle.name for bundle in bundles]
    for bundle in bundles:
        session = Session.load(bundle, engine)
        manifest = session.manifest
        check_source(manifest, source)
        name = bundle.name if names.count(bundle.name) == 1 else str(bundle)
        logits = partial(bundle_logits, session)
        longest = manifest.decoding.context_length
        candidates.append(Candidate(name, bits_per_weight(manifest), longest, logits))
    return candidates


def bits_per_weight(manifest: Manifest) -> float:
    """Bits of the decoder's packages per weight in them, tables, scales and padding included."""
    packages = [graph for graph in manifest.graphs if graph.role == "decoder"]
    return 8 * sum(g.weight_bytes for g in packages) / sum(g.parameters for g in packages)


def measure_text(
    candidates: Sequence[Candidate], source: OpenCheckpoint, text: str, tokens: int
) -> dict[str, Scores]:
    """Scores by candidate for the first `tokens` tokens of a text.

    Raises `InputError` for a text of fewer than two tokens.
    """
    ids = first_tokens(source.chat_format.tokenizer.encode_text(text), tokens)
    length = min([_STRETCH, *(candidate.longest for candidate in candidates)])
    reference = Reference(source.config, source.checkpoint)
    found: dict[str, list[Scores]] = {candidate.name: [] for candidate in candidates}
    for part in stretches(ids, length):
        wanted = reference_logits(reference, part[:-1])
        for candidate in candidates:
            logits = candidate.logits(part[:-1])
            found[candidate.name].append(Scores.of(logits, wanted, part[1:]))
    return {name: Scores.joined(parts) for name, parts in found.items()}
