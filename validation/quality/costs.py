"""Which of a bundle's matrices cost most: the checkpoint with only these as the bundle stores them.

Costs of several do not add up to the bundle's: errors of one matrix pass through others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export.checkpoint.source import TensorReader, TensorSource
from export.models.tensors import EMBED_TOKENS, LM_HEAD
from mobile_runtime.bundle import read_manifest
from validation.quality.measure import Scores
from validation.quality.passages import Passage
from validation.reference.reference import Reference
from validation.reference.same_weights import SameWeights
from validation.sources import OpenCheckpoint, bundle_plan, prepared_like

_BLOCKS = "llm.model.layers."


@dataclass(frozen=True)
class Cost:
    """The mean distance in nats that the matrices of a part cause on their own."""

    bundle: str
    part: str
    kl: float


@dataclass(frozen=True, eq=False)
class _Mixed:
    """The tensors `names` as they are stored, all others as the checkpoint has them; a tied head
    is a matrix of its own, as in a bundle."""

    stored: TensorReader
    checkpoint: TensorSource
    names: Sequence[str]

    def read(self, name: str) -> np.ndarray:
        """The whole tensor."""
        reader, name = self._find(name)
        return reader.read(name)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end`."""
        reader, name = self._find(name)
        return reader.read_rows(name, begin, end)

    def _find(self, name: str) -> tuple[TensorReader, str]:
        if name in self.names:
            return self.stored, name
        tied = name == LM_HEAD and name not in self.checkpoint.tensors
        return self.checkpoint, EMBED_TOKENS if tied else name


def measure_costs(
    bundle: Path, name: str, source: OpenCheckpoint, passages: Sequence[Passage]
) -> Iterator[Cost]:
    """Yield the cost of each part of the decoder of a bundle, which reports call `name`, on
    passages without pictures: of each block, of each kind of matrix in all blocks, of the
    embeddings and of the head."""
    manifest, source = read_manifest(bundle), prepared_like(bundle, source)
    stored = SameWeights(source.stored, bundle_plan(manifest, source))
    decoder = replace(source.config.decoder, tie_word_embeddings=False)
    config = replace(source.config, decoder=decoder)

    def run(names: Sequence[str]) -> tuple[Reference, list[np.ndarray]]:
        """A reference, and its states (m, D) at the judged positions of each passage."""
        reference = Reference(config, _Mixed(stored, source.checkpoint, names))
        texts = [reference.start(reference.embed(passage.ids)) for passage in passages]
        ended = reference.run_layers(texts, range(decoder.num_layers))
        pairs = zip(ended, passages, strict=True)
        return reference, [rows.hidden[passage.scored] for rows, passage in pairs]

    floats, wanted = run([])
    for part, names in _parts(source).items():
        changed, found = run(names)
        scores = [
            Scores.of(changed.logits(x), floats.logits(y), passage.targets)
            for x, y, passage in zip(found, wanted, passages, strict=True)
        ]
        yield Cost(name, part, float(Scores.joined(scores).kl.mean()))


def _parts(source: OpenCheckpoint) -> Mapping[str, list[str]]:
    """Names of tensors by part."""
    parts: dict[str, list[str]] = {}
    shapes = source.described.release.tensor_shapes(source.config)
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    for name in matrices:
        if name.startswith(_BLOCKS):
            block = name.removeprefix(_BLOCKS).partition(".")[0]
            parts.setdefault(f"block {block}", []).append(name)
    for name in matrices:
        if name.startswith(_BLOCKS):
            parts.setdefault(f"all {name.split('.')[-2]}", []).append(name)
    return {**parts, "embed_tokens": [EMBED_TOKENS], "lm_head": [LM_HEAD]}
