"""The stages of the model, each run by a bundle and by references on the same input.

A stage is fed what the checkpoint's reference computed before it, so that an error is charged
where it arises. Only valid positions are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mobile_runtime.conversation import PreparedPrompt
from mobile_runtime.decoder import Decoder, DecoderPackage
from mobile_runtime.preprocess import View
from mobile_runtime.session import Session
from validation.reference import Reference

Array = np.ndarray


@dataclass(frozen=True)
class Compared:
    """What one stage gave for one prompt, row by row: (n, …) each."""

    candidate: Array
    conversion: Array  # reference with the bundle's weights
    checkpoint: Array  # reference with the checkpoint's weights


class PromptRun:
    """One prompt through all stages; what the references compute is kept for the next stage."""

    def __init__(
        self,
        named: tuple[str, PreparedPrompt],
        session: Session,
        references: tuple[Reference, Reference],
        new_tokens: int,
    ) -> None:
        (self.name, self.prompt), self.session = named, session
        self.checkpoint, self.conversion = references
        self.length = len(self.prompt.keys)
        room = session.manifest.decoding.context_length - self.length
        self.new_tokens = min(new_tokens, room)

    @cached_property
    def _features(self) -> list[list[Array]]:
        """Features of each group's views, (h·w, vision hidden), by the checkpoint."""
        return [[self.checkpoint.encode_view(v) for v in views] for views in self.prompt.groups]

    def vision_encoder(self) -> Iterator[Compared]:
        """Features of every view."""
        for views, features in zip(self.prompt.groups, self._features, strict=True):
            for view, expected in zip(views, features, strict=True):
                got = self.session.vision.encode_view(view)[:, : len(expected)].T
                yield Compared(got, self.conversion.encode_view(view), expected)

    def resampler(self) -> Iterator[Compared]:
        """Embeddings of every group, from the checkpoint's features."""
        vision = self.session.vision
        length = self.session.manifest.preprocessing.max_patches
        for (views, group), features, expected in zip(
            self._groups(), self._features, self._image_embeds, strict=True
        ):
            sizes = [view.tgt_size for view in views]
            padded = [np.pad(f.T, ((0, 0), (0, length - len(f)))) for f in features]
            got = vision.resample(padded, sizes, group)
            yield Compared(got, self.conversion.resample(features, sizes, group), expected)

    def _groups(self) -> Iterator[tuple[Sequence[View], tuple[int, ...]]]:
        for views, group in zip(self.prompt.groups, self.prompt.encoded.groups, strict=True):
            yield views, group.temporal_ids

    @cached_property
    def _image_embeds(self) -> list[Array]:
        return [
            self.checkpoint.resample(features, [view.tgt_size for view in views], times)
            for (views, times), features in zip(self._groups(), self._features, strict=True)
        ]

    @cached_property
    def _embeddings(self) -> Array:
        """Input embeddings of the prompt by the checkpoint."""
        return self.checkpoint.splice(self.prompt, self._image_embeds)

    def embeddings(self) -> Iterator[Compared]:
        """Rows of the embedding table for the tokens of the prompt."""
        ids = self.prompt.encoded.input_ids
        yield Compared(
            self.session.embedding(ids), self.conversion.embed(ids), self.checkpoint.embed(ids)
        )

    @cached_property
    def tokens(self) -> list[int]:
        """Greedy continuation by the checkpoint, which all later stages are forced to follow."""
        self._run_checkpoint()
        return self._tokens

    def _run_checkpoint(self) -> None:
        """Run prompt and continuation once; note the hidden states before each package."""
        starts = [graph.blocks for graph in self.session.manifest.graphs_of("decoder")]
        bounds = [range(*blocks) for blocks in starts]
        self.checkpoint.new_cache(self.length + self.new_tokens)
        self._tokens: list[int] = []
        parts: list[list[Array]] = [[] for _ in range(len(bounds) + 1)]
        hidden, position, logits = self._embeddings, 0, []
        while True:
            parts[0].append(hidden)
            for n, layers in enumerate(bounds):
                hidden = self.checkpoint.run_layers(hidden, position, layers)
                parts[n + 1].append(hidden)
            position += len(hidden)
            logits.append(self.checkpoint.logits(hidden[-1:])[0])
            if len(self._tokens) == self.new_tokens:
                break
            self._tokens.append(int(logits[-1].argmax()))
            hidden = self.checkpoint.embed(np.array(self._tokens[-1:]))
        self.boundaries = [np.concatenate(rows) for rows in parts]
        self.checkpoint_logits = np.stack(logits)  # (new_tokens + 1, vocab)

    def decoder(self, n: int) -> Iterator[Compared]:
        """Package `n` over prompt (prefill) and continuation (decode)."""
        assert self.tokens is not None
        given, expected = self.boundaries[n], self.boundaries[n + 1]
        package = self.session.decoder.packages[n]
        layers = range(*package.graph.blocks)
        self.conversion.new_cache(len(given))
        conversion = [self.conversion.run_layers(given[: self.length], 0, layers)]
        for row in range(self.length, len(given)):
            conversion.append(self.conversion.run_layers(given[row : row + 1], row, layers))
        got = run_package(self.session.decoder, package, given, self.length)
        yield Compared(got, np.concatenate(conversion), expected)

    def logits(self) -> Iterator[Compared]:
        """Head on the checkpoint's last hidden states: the prompt's last and each new token's."""
        assert self.tokens is not None
        hidden = self.boundaries[-1][self.length - 1 :]
        got = np.stack([self.session.decoder.logits(row) for row in hidden])
        yield Compared(got, self.conversion.logits(hidden), self.checkpoint_logits)

    def end_to_end(self) -> Iterator[Compared]:
        """Logits of the whole chain, every stage fed by its own predecessor."""
        yield self._end_to_end

    @cached_property
    def _end_to_end(self) -> Compared:
        tokens = self.tokens
        self.session.reset()
        got = [self.session.prefill(self.prompt)]
        got += [self.session.decode(token) for token in tokens]
        conversion = self._conversion_logits(tokens)
        return Compared(np.stack(got), conversion, self.checkpoint_logits)

    def _conversion_logits(self, tokens: Sequence[int]) -> Array:
        reference = self.conversion
        layers = range(reference.config.decoder.num_layers)
        reference.new_cache(self.length + len(tokens))
        embeddings = reference.splice(self.prompt, reference.image_embeds(self.prompt))
        logits = [reference.logits(reference.run_layers(embeddings, 0, layers)[-1:])]
        for n, token in enumerate(tokens):
            hidden = reference.embed(np.array([token]))
            hidden = reference.run_layers(hidden, self.length + n, layers)
            logits.append(reference.logits(hidden))
        return np.concatenate(logits)


def run_package(decoder: Decoder, package: DecoderPackage, given: Array, prompt: int) -> Array:
    """Run one package alone: the first `prompt` rows in blocks, the rest one at a time."""
    package.reset()
    rows, position = [], 0
    while position < len(given):
        remaining = prompt - position if position < prompt else 1
        length = decoder.block_length(remaining, position)
        valid = min(length, remaining)
        inputs = decoder.block_inputs(given[position : position + valid], position, length)
        function = "decode" if length == 1 else "prefill"
        hidden = package.run(function, inputs, position, valid)
        rows.append(hidden[0, :, 0, :valid].T)
        position += valid
    return np.concatenate(rows)


Stage = Callable[[PromptRun], Iterator[Compared]]
