"""Every component of the model, run by a bundle and by two references on the same input.

A component is fed what the checkpoint's reference computed before it, so that each component
answers only for its own error. Only valid positions are compared. All prompts go through one
reference after the other, so that weights which do not fit into memory together are loaded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mobile_runtime.chat.conversation import PreparedPrompt
from mobile_runtime.model.static_decoder import StaticDecoder, StaticPackage
from mobile_runtime.session import Session
from validation.reference.continuation import continue_texts
from validation.reference.reference import Group, Reference, picture_groups

Array = np.ndarray


@dataclass(frozen=True)
class Compared:
    """Results of one stage for one input, row by row: (n, …) each."""

    candidate: Array
    same_weights: Array  # reference with the bundle's weights
    checkpoint: Array  # reference with the checkpoint's weights


@dataclass(frozen=True)
class TextOptions:
    """What follows the prompts: `new_tokens` tokens, if the context has room.

    `greedy`: the checkpoint's own continuation (needs the whole model); otherwise the prompt's last
    tokens, reversed.
    """

    new_tokens: int
    greedy: bool


class Comparison:
    """All prompts through all stages; what the references compute is kept for later stages, and
    computed only when a stage needs it."""

    def __init__(
        self,
        prompts: Sequence[PreparedPrompt],
        session: Session,
        references: tuple[Reference, Reference],
        options: TextOptions,
    ) -> None:
        self.prompts, self._session, self._options = prompts, session, options
        self._checkpoint, self._same_weights = references
        self._lengths = [len(prompt.keys) for prompt in prompts]
        self._boundaries: list[list[Array]] = []

    @cached_property
    def _features(self) -> list[list[list[Array]]]:
        """Features of each prompt's groups' views, (h·w, vision hidden), by the checkpoint."""
        return self._checkpoint.encode_views(self.prompts)

    @cached_property
    def _groups(self) -> list[list[Group]]:
        """The resampler's inputs, one list per prompt."""
        pairs = zip(self.prompts, self._features, strict=True)
        return [picture_groups(prompt, found) for prompt, found in pairs]

    @cached_property
    def _image_embeds(self) -> list[list[Array]]:
        """Embeddings of each prompt's groups by the checkpoint."""
        return [[self._checkpoint.resample(*group) for group in found] for found in self._groups]

    def vision_encoder(self) -> Iterator[Compared]:
        """Features of every view."""
        views = [view for prompt in self.prompts for group in prompt.groups for view in group]
        expected = [f for found in self._features for features in found for f in features]
        same_weights = [self._same_weights.encode_view(view) for view in views]
        for view, same, features in zip(views, same_weights, expected, strict=True):
            got = self._session.model.vision.encode_view(view)
            yield Compared(got, same, features)

    def resampler(self) -> Iterator[Compared]:
        """Embeddings of every group, from the checkpoint's features."""
        groups = [group for found in self._groups for group in found]
        expected = [embeds for found in self._image_embeds for embeds in found]
        same_weights = [self._same_weights.resample(*group) for group in groups]
        for group, same, embeds in zip(groups, same_weights, expected, strict=True):
            yield Compared(self._session.model.vision.resample(*group), same, embeds)

    def embeddings(self) -> Iterator[Compared]:
        """Rows of the embedding table for the tokens of each prompt."""
        for ids in (prompt.encoded.input_ids for prompt in self.prompts):
            got = self._session.model.embedding(ids)
            yield Compared(got, self._same_weights.embed(ids), self._checkpoint.embed(ids))

    @cached_property
    def _embeddings(self) -> list[Array]:
        """Input embeddings of each prompt by the checkpoint."""
        pairs = zip(self.prompts, self._image_embeds, strict=True)
        return [self._checkpoint.splice(prompt, embeds) for prompt, embeds in pairs]

    @cached_property
    def _tokens(self) -> list[list[int]]:
        """The tokens that follow each prompt; every stage is run on them."""
        context = self._session.manifest.decoding.context_length
        limits = [min(self._options.new_tokens, context - n) for n in self._lengths]
        if self._options.greedy and self._options.new_tokens:
            found = continue_texts(self._checkpoint, self._embeddings, limits)
            return [continuation.tokens for continuation in found]
        ids = (prompt.encoded.input_ids[::-1] for prompt in self.prompts)
        return [np.resize(i, limit).tolist() for i, limit in zip(ids, limits, strict=True)]

    def _boundary(self, n: int) -> list[Array]:
        """Hidden states (T, D) before package `n` of each prompt and what follows it, by the
        checkpoint; no layer after them is run."""
        if not self._boundaries:
            self._boundaries = [_extend(self._checkpoint, self._embeddings, self._tokens)]
        for graph in self._session.manifest.graphs_of("decoder")[len(self._boundaries) - 1 : n]:
            before = self._boundaries[-1]
            self._boundaries.append(_run_texts(self._checkpoint, before, range(*graph.blocks)))
        return self._boundaries[n]

    def decoder(self, n: int) -> Iterator[Compared]:
        """Package `n` over prompts (prefill) and what follows them (decode)."""
        given, expected = self._boundary(n), self._boundary(n + 1)
        decoder = self._static_decoder
        package = decoder.packages[n]
        same_weights = _run_texts(self._same_weights, given, range(*package.graph.blocks))
        for length, hidden, same, behind in zip(
            self._lengths, given, same_weights, expected, strict=True
        ):
            got = run_package(decoder, package, hidden, length)
            yield Compared(got, same, behind)

    @cached_property
    def _checkpoint_logits(self) -> list[Array]:
        return _logits(self._checkpoint, self._last_hidden())

    def _last_hidden(self) -> list[Array]:
        """Hidden states after all layers, of each prompt's last token and each token that
        follows."""
        ended = self._boundary(len(self._session.manifest.graphs_of("decoder")))
        return [text[n - 1 :] for n, text in zip(self._lengths, ended, strict=True)]

    @property
    def _static_decoder(self) -> StaticDecoder:
        decoder = self._session.model.decoder
        assert isinstance(decoder, StaticDecoder), "a decoder in packages"
        return decoder

    def text(self) -> Iterator[Compared]:
        """The whole decoder from the checkpoint's embeddings: logits of each prompt's last token
        and each token that follows."""
        given = _extend(self._checkpoint, self._embeddings, self._tokens)
        layers = range(self._same_weights.config.decoder.num_layers)
        ended = _run_texts(self._same_weights, given, layers)
        last = [text[n - 1 :] for n, text in zip(self._lengths, ended, strict=True)]
        same_weights = _logits(self._same_weights, last)
        decoder = self._session.model.decoder
        for length, text, same, logits in zip(
            self._lengths, given, same_weights, self._checkpoint_logits, strict=True
        ):
            decoder.reset()
            rows = [decoder.next_logits(text[:length], 0)]
            rows += [decoder.next_logits(text[n : n + 1], n) for n in range(length, len(text))]
            yield Compared(np.stack(rows), same, logits)

    def logits(self) -> Iterator[Compared]:
        """Head on the checkpoint's last hidden states."""
        given, expected = self._last_hidden(), self._checkpoint_logits
        same_weights = _logits(self._same_weights, given)
        for hidden, same, logits in zip(given, same_weights, expected, strict=True):
            got = np.stack([self._static_decoder.logits(row) for row in hidden])
            yield Compared(got, same, logits)

    def end_to_end(self) -> Iterator[Compared]:
        """Logits of the whole chain, every stage fed by its own predecessor."""
        yield from self._end_to_end

    @cached_property
    def _end_to_end(self) -> list[Compared]:
        expected, same_weights = self._checkpoint_logits, self._same_weights_logits()
        found = []
        for n, (prompt, tokens) in enumerate(zip(self.prompts, self._tokens, strict=True)):
            self._session.reset()
            rows = [self._session.prefill(prompt), *map(self._session.decode, tokens)]
            found.append(Compared(np.stack(rows), same_weights[n], expected[n]))
        return found

    def _same_weights_logits(self) -> list[Array]:
        reference = self._same_weights
        embeds = reference.image_embeds(self.prompts)
        pairs = zip(self.prompts, embeds, strict=True)
        texts = [reference.splice(prompt, found) for prompt, found in pairs]
        texts = _extend(reference, texts, self._tokens)
        ended = _run_texts(reference, texts, range(reference.config.decoder.num_layers))
        last = [text[n - 1 :] for n, text in zip(self._lengths, ended, strict=True)]
        return _logits(reference, last)


def _extend(
    reference: Reference, texts: Sequence[Array], tokens: Sequence[Sequence[int]]
) -> list[Array]:
    """Each text (T, D) with the embeddings of its tokens after it."""
    pairs = zip(texts, tokens, strict=True)
    return [np.concatenate([text, reference.embed(np.array(t, int))]) for text, t in pairs]


def _run_texts(reference: Reference, texts: Sequence[Array], layers: range) -> list[Array]:
    """Whole texts (T, D) through `layers`."""
    return [rows.hidden for rows in reference.run_layers([*map(reference.start, texts)], layers)]


def _logits(reference: Reference, hidden: Sequence[Array]) -> list[Array]:
    """Logits of each text's last hidden states (n, D), (n, vocab)."""
    ends = np.cumsum([len(rows) for rows in hidden])[:-1]
    return np.split(reference.logits(np.concatenate(hidden)), ends)


def run_package(decoder: StaticDecoder, package: StaticPackage, given: Array, prompt: int) -> Array:
    """Run only this package: the first `prompt` rows in blocks, the rest one at a time."""
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
