"""Runs bundles and their checkpoint on the same tokens, and compares what they expect next.

For each token both give a distribution of the next one; the distance is KL(checkpoint ‖ bundle) in
nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mobile_runtime.bundle import Manifest
from mobile_runtime.engines import EngineOptions
from mobile_runtime.model.hub import bundle_name
from mobile_runtime.pictures.preprocess import check_view
from mobile_runtime.session import Session
from validation.parity.metrics import log_softmax
from validation.quality.passages import Passage
from validation.reference.reference import Reference
from validation.sources import OpenCheckpoint, check_source

Array = np.ndarray
TOP = (1, 5)


@dataclass(frozen=True)
class Scores:
    """Figures of single tokens (n,): the distance, whether the bundle's first token and five first
    tokens hold the checkpoint's first one, the loss of the token that follows under both, and
    whether each expects that one first."""

    kl: Array
    top: Mapping[int, Array]
    loss: Array
    reference_loss: Array
    right: Array
    reference_right: Array

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
            right=q.argmax(-1) == targets,
            reference_right=first == targets,
        )

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """Those of several passages."""

        def join(field: Callable[[Scores], Array]) -> Array:
            return np.concatenate([field(part) for part in parts])

        return cls(
            kl=join(lambda part: part.kl),
            top={k: join(lambda part, k=k: part.top[k]) for k in TOP},  # type: ignore[misc]
            loss=join(lambda part: part.loss),
            reference_loss=join(lambda part: part.reference_loss),
            right=join(lambda part: part.right),
            reference_right=join(lambda part: part.reference_right),
        )


@dataclass(frozen=True)
class Candidate:
    """A model that is measured. `logits` (m, V) are those after the m judged positions of a
    passage of at most `longest` tokens. `bits` are those of a weight of the decoder."""

    name: str
    bits: float
    longest: int
    logits: Callable[[Passage], Array]


def open_candidates(
    bundles: Sequence[Path], engine: EngineOptions, source: OpenCheckpoint
) -> list[Candidate]:
    """Open bundles. Raises `InputError` if one was made from another checkpoint."""
    candidates, names = [], [bundle_name(bundle) for bundle in bundles]
    for bundle in bundles:
        session = Session.load(bundle, engine)
        manifest = session.manifest
        check_source(manifest, source)
        name = bundle_name(bundle)
        name = name if names.count(name) == 1 else str(bundle)
        logits = partial(bundle_logits, session)
        longest = manifest.decoding.context_length
        candidates.append(Candidate(name, bits_per_weight(manifest), longest, logits))
    return candidates


def bits_per_weight(manifest: Manifest) -> float:
    """Bits of the decoder's packages per weight in them, tables, scales and padding included."""
    packages = [graph for graph in manifest.graphs if graph.role == "decoder"]
    return 8 * sum(g.weight_bytes for g in packages) / sum(g.parameters for g in packages)


def bundle_logits(session: Session, passage: Passage) -> Array:
    """Logits (m, V) of a bundle after the judged positions, its own vision tower before them."""
    embed, prompt = session.model.embedding, passage.prompt
    if prompt is None:
        embeddings = embed(passage.ids)
    else:
        for view in (view for group in prompt.groups for view in group):
            check_view(view, session.manifest.preprocessing)
        begun = session.prompt_embeddings(prompt)
        embeddings = np.concatenate([begun, embed(passage.ids[len(begun) :])])
    session.model.decoder.reset()
    logits = session.model.decoder.logits_of(embeddings)
    return np.asarray(logits[passage.scored])


def reference_logits(reference: Reference, passage: Passage) -> Array:
    """Logits (m, V) of PyTorch after the judged positions."""
    embeddings = reference.embed(passage.ids)
    if passage.prompt is not None:
        (embeds,) = reference.image_embeds([passage.prompt])
        begun = reference.splice(passage.prompt, embeds)
        embeddings[: len(begun)] = begun
    text = reference.start(embeddings)
    (ended,) = reference.run_layers([text], range(reference.config.decoder.num_layers))
    return reference.logits(ended.hidden[passage.scored])


def measure(
    candidates: Sequence[Candidate], source: OpenCheckpoint, passages: Sequence[Passage]
) -> Iterator[dict[str, Scores]]:
    """Yield the scores by candidate for each passage."""
    reference = Reference(source.config, source.checkpoint)
    for passage in passages:
        wanted = reference_logits(reference, passage)
        yield {
            candidate.name: Scores.of(candidate.logits(passage), wanted, passage.targets)
            for candidate in candidates
        }
