"""A model that can be interrupted while it computes a prompt: between views and between blocks.

A prompt of a large model takes minutes, in which its client may leave. What was computed of it so
far is lost, and the session goes on with what it held before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mobile_runtime.model.model import Array, Model, TextModel, VisionModel
from mobile_runtime.pictures.preprocess import View


def interruptible(model: Model, block: int, check: Callable[[], None]) -> Model:
    """The model, which calls `check` before each view and each block of rows; what that raises ends
    the computation. `block` is the number of rows that the decoder itself runs at once: in others,
    its results would differ in the last digits."""
    return replace(
        model,
        vision=_Vision(model.vision, check),
        decoder=_Decoder(model.decoder, block, check),
    )


@dataclass(frozen=True)
class _Vision:
    inner: VisionModel
    check: Callable[[], None]

    def encode_view(self, view: View) -> Array:
        self.check()
        return self.inner.encode_view(view)

    def resample(
        self,
        features: Sequence[Array],
        sizes: Sequence[tuple[int, int]],
        temporal_ids: Sequence[int],
    ) -> Array:
        return self.inner.resample(features, sizes, temporal_ids)


@dataclass(frozen=True)
class _Decoder:
    inner: TextModel
    block: int
    check: Callable[[], None]

    def reset(self) -> None:
        self.inner.reset()

    def rewind(self, position: int) -> int:
        return self.inner.rewind(position)

    def sibling(self) -> TextModel:
        return replace(self, inner=self.inner.sibling())

    def cache(self, length: int) -> Mapping[str, Array]:
        return self.inner.cache(length)

    def load_cache(self, cache: Iterable[tuple[str, Array]], length: int) -> None:
        self.inner.load_cache(cache, length)

    def next_logits(self, embeddings: Array, position: int) -> Array:
        if len(embeddings) == 1:  # a token of an answer, which ends by itself
            return self.inner.next_logits(embeddings, position)
        for begin in range(0, len(embeddings), self.block):
            self.check()
            rows = embeddings[begin : begin + self.block]
            logits = self.inner.next_logits(rows, position + begin)
        return logits

    def logits_of(self, embeddings: Array, position: int = 0, keep: int | None = None) -> Array:
        return self.inner.logits_of(embeddings, position, keep)
