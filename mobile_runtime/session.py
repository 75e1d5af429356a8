"""A conversation with a bundle: messages in, a stream of text out.

The key/value cache is kept between calls: whatever the new prompt shares with the last one, token
by token and picture by picture, is not computed again. The cache belongs to the answer that was
begun last: an earlier one that is read on is refused. A fork has a cache of its own. Of several
threads one computes at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mobile_runtime.bundle import (
    Manifest,
    bundle_digest,
    read_manifest,
    verify_files,
)
from mobile_runtime.chat.conversation import ChatFormat, Key, PreparedPrompt, prepare_prompt
from mobile_runtime.chat.history import pack_messages
from mobile_runtime.chat.options import GREEDY, ChatOptions, sampler_for, token_limit
from mobile_runtime.chat.prompt import EncodedPrompt, check_prompt
from mobile_runtime.chat.schemas import Schemas
from mobile_runtime.chat.stream import ChatStream, Statistics
from mobile_runtime.chat.tokenizer import StreamDecoder, Tokenizer
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.model.contradictions import contradictions_named
from mobile_runtime.model.formats import format_of, open_model
from mobile_runtime.model.hub import bundle_folder
from mobile_runtime.model.manifest_checks import check_numbers, check_tables
from mobile_runtime.model.mapped_files import MappedFiles
from mobile_runtime.model.session_file import Origin, open_session, write_session
from mobile_runtime.pictures.preprocess import check_view
from mobile_runtime.sampling.lookup import PromptLookup
from mobile_runtime.sampling.sampling import Sampler
from mobile_runtime.sampling.structured.constraint import Constraint

Array = np.ndarray

__all__ = ["GREEDY", "ChatOptions", "Session"]


class Session:
    """An open bundle with one conversation's cache.

    With `speculate`, greedy answers run several guessed tokens at a time where the model copies
    what it has read or said: faster, and the same tokens but where two are equally good to within
    rounding. It may be switched at any time.
    """

    speculate = False

    def __init__(
        self, bundle: Path, manifest: Manifest, options: EngineOptions, files: MappedFiles
    ) -> None:
        self.manifest, self._files = manifest, files
        self.tokenizer = Tokenizer.load(bundle / "tokenizer" / "tokenizer.json")
        check_prompt(manifest.prompt, self.tokenizer)
        self._schemas = Schemas(self.tokenizer, manifest.prompt)
        with contradictions_named():
            self.model = open_model(bundle, manifest, options)
        self._origin = Origin(bundle_digest(bundle), options.precision)
        self._cached: list[Key] = []
        self._image_embeds: dict[bytes, Array] = {}
        self._owner: ChatStream | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls, bundle: Path | str, options: EngineOptions = EngineOptions(), *, verify: bool = True
    ) -> Session:
        """Open a bundle: a folder, or `hf://OWNER/NAME@REVISION`. `verify` checks the SHA-256 of
        every file. Raises `InputError` for options that the bundle's format does not take."""
        bundle = bundle_folder(bundle)
        manifest = read_manifest(bundle)
        check_numbers(manifest)
        format_of(manifest).choose_engine(manifest, options)  # before the files are read
        check_tables(manifest)
        files = MappedFiles(bundle, manifest)
        if verify:
            verify_files(bundle, manifest)
        return cls(bundle, manifest, options, files)

    def reset(self) -> None:
        """Forget the conversation."""
        with self._owned_by(None):
            self._cached, self._image_embeds = [], {}
            self.model.decoder.reset()

    def fork(self) -> Session:
        """A second session on the same open model, which holds a copy of the conversation: both go
        on independently. It takes memory for its cache, a copy of the positions in use; pictures'
        embeddings are shared. Of all sessions of a model one computes at a time."""
        with self._lock:
            other = copy(self)  # the lock too
            other.model = replace(self.model, decoder=self.model.decoder.sibling())
            other._cached, other._image_embeds = self._kept(), dict(self._image_embeds)
            other._owner = None
            if length := len(other._cached):
                cache = self.model.decoder.cache(length)
                other.model.decoder.load_cache(cache.items(), length)
        return other

    def save(
        self, path: Path, messages: Sequence[Mapping[str, Any]] = (), folder: Path | None = None
    ) -> None:
        """Write what the session holds to a file, whole or not at all: the cache, what is in it,
        the pictures' embeddings, and `messages`, whose relative paths start at `folder`.

        Raises `InputError` for messages that are not valid or a file that cannot be written.
        """
        packed = pack_messages(messages, folder)
        with self._lock:
            keys = self._kept()
            cache = self.model.decoder.cache(len(keys)) if keys else {}
            write_session(path, self._origin, keys, self._image_embeds, cache, packed)

    def restore(self, path: Path) -> list[dict[str, Any]]:
        """Go on from a file that `save` wrote, in any process: what it holds takes the place of
        what this session holds. Returns the messages that were saved.

        Raises `InputError`, and changes nothing, for a file that is damaged, or was saved by a
        session of another bundle or precision.
        """
        with self._lock, open_session(path, self._origin, self.manifest) as saved:
            decoder = self.model.decoder.sibling()
            if length := len(saved.keys):
                decoder.load_cache(saved.cache(decoder.cache(length)), length)
            self.model = replace(self.model, decoder=decoder)
            self._cached, self._image_embeds = saved.keys, saved.image_embeds
            self._owner = None
            return saved.messages

    def _kept(self) -> list[Key]:
        """Keys of the positions that the decoder can give a copy of."""
        del self._cached[self.model.decoder.rewind(len(self._cached)) :]
        return list(self._cached)

    @contextmanager
    def _owned_by(self, stream: ChatStream | None, begins: bool = True) -> Iterator[None]:
        """One computation on the cache, by one thread at a time. From here on the cache belongs to
        `stream`, or for None to no stream. One that does not begin here must own it already: raises
        `InputError` if it does not."""
        with self._lock:
            if begins:
                self._owner = stream
            elif self._owner is not stream:
                raise InputError(
                    "the session was asked something else before this answer was read to its end; "
                    "read one answer at a time, or fork the session for each conversation."
                )
            self._files.check()
            try:
                with contradictions_named():
                    yield
            finally:
                self._files.check()

    def prepare(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: ChatOptions = ChatOptions(),
        folder: Path | None = None,
    ) -> PreparedPrompt:
        """Read the pictures, build the prompt, and check that everything fits.

        Raises `InputError` for messages or pictures that are not valid, a picture with more patches
        than the bundle takes, or a prompt longer than the context.
        """
        config = self.manifest.preprocessing
        chat_format = ChatFormat(self.tokenizer, self.manifest.prompt, config)
        room = self.manifest.decoding.context_length
        prompt = prepare_prompt(
            messages, chat_format, options.prompt, options.max_slice_nums, folder, room
        )
        for view in (view for group in prompt.groups for view in group):
            check_view(view, config)
        self._check_length(len(prompt.keys), prompt.encoded)
        return prompt

    def _check_length(self, tokens: int, encoded: EncodedPrompt) -> None:
        context = self.manifest.decoding.context_length
        if tokens >= context:
            pictures = int(np.sum(np.diff(encoded.image_bound, axis=1)))
            raise InputError(
                f"the prompt has {tokens} tokens, {pictures} of them for pictures, and the context "
                f"holds {context} with the answer; shorten it, lower max_slice_nums, or export "
                "with a larger --context-length."
            )

    def image_embeds(self, prompt: PreparedPrompt, first: int = 0) -> list[Array]:
        """Embeddings (queries, D) of each group from number `first` on, computed once per group."""
        digests = [_group_digest(prompt, n) for n in range(len(prompt.groups))]
        self._image_embeds = {d: e for d, e in self._image_embeds.items() if d in digests}
        for n in range(first, len(prompt.groups)):
            if digests[n] not in self._image_embeds:
                times = prompt.encoded.groups[n].temporal_ids
                embeds = self.model.encode_group(prompt.groups[n], times)
                self._image_embeds[digests[n]] = embeds
        return [self._image_embeds[digest] for digest in digests[first:]]

    def prompt_embeddings(self, prompt: PreparedPrompt, start: int = 0) -> Array:
        """Return (T − start, D): text embeddings with the pictures' spliced in."""
        bounds = prompt.encoded.image_bound
        embeddings = self.model.embedding(prompt.encoded.input_ids)
        first = int(np.sum(bounds[:, 1] <= start)) if len(bounds) else 0
        for bound, embeds in zip(bounds[first:], self.image_embeds(prompt, first), strict=True):
            embeddings[bound[0] : bound[1]] = embeds
        return embeddings[start:]

    def prefill(self, prompt: PreparedPrompt, statistics: Statistics | None = None) -> Array:
        """Run the prompt, reusing the cache; return logits (vocab_size,) of its last position."""
        with self._owned_by(None):
            return self._prefill(prompt, statistics or Statistics())

    def _prefill(self, prompt: PreparedPrompt, statistics: Statistics) -> Array:
        start = self.model.decoder.rewind(self.shared_length(prompt.keys))
        statistics.prompt_tokens, statistics.reused_tokens = len(prompt.keys), start
        statistics.video_frames = prompt.encoded.video_frames
        begin = time.perf_counter()
        embeddings = self.prompt_embeddings(prompt, start)
        statistics.vision_seconds = time.perf_counter() - begin
        begin = time.perf_counter()
        # Rows past `start` are overwritten from here on: forget them before, not after.
        self._cached = list(prompt.keys[:start])
        logits = self.model.decoder.next_logits(embeddings, start)
        self._cached = list(prompt.keys)
        statistics.prefill_seconds = time.perf_counter() - begin
        return logits

    def shared_length(self, keys: Sequence[Key]) -> int:
        """How many positions of a prompt with these reuse keys the cache already holds; the last
        one of a prompt is always run for its logits."""
        shared = 0
        for cached, key in zip(self._cached, keys[:-1], strict=False):
            if cached != key:
                break
            shared += 1
        return shared

    def decode(self, token: int) -> Array:
        """Append one token to the cache; return the logits (vocab_size,) of the next."""
        with self._owned_by(None):
            return self._decode(token)

    def _decode(self, token: int) -> Array:
        embedding = self.model.embedding(np.array([token]))
        logits = self.model.decoder.next_logits(embedding, len(self._cached))
        self._cached.append(token)
        return logits

    def _decode_ahead(self, token: int, guesses: PromptLookup, limit: int) -> Array:
        """As `_decode`; may run up to `limit` guessed tokens as well. Their rows of the cache count
        once they are chosen, and are overwritten otherwise."""
        position, decoding = len(self._cached), self.manifest.decoding
        if (logits := guesses.take(token)) is None:
            fits = position + decoding.prefill_length <= decoding.context_length
            ahead = guesses.guess(min(limit, decoding.prefill_length) - 1) if fits else []
            begin = time.perf_counter()
            rows = self.model.embedding(np.array([token, *ahead]))
            found = self.model.decoder.logits_of(rows, position)
            guesses.keep(ahead, found, time.perf_counter() - begin)
            logits = found[0]
        self._cached.append(token)
        return logits

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: ChatOptions = ChatOptions(),
        folder: Path | None = None,
    ) -> ChatStream:
        """Answer a conversation: the stream computes each piece when it is read.

        Raises `InputError` here, before the first piece, and again when a stream is read on after
        another one was begun, or the session was used otherwise. The stream's `finish_reason`
        becomes "stop", "length" (`max_new_tokens`), "context_full" or "cancelled". With a schema
        the answer is whole all the same, but if it was cancelled; "length" then says that one of
        both limits ended it.
        """
        self.check_options(options)  # before pictures are read
        return self.answer(self.prepare(messages, options, folder), options)

    def answer(self, prompt: PreparedPrompt, options: ChatOptions = ChatOptions()) -> ChatStream:
        """Answer a prompt that `prepare` built, as `chat` does; raises as `check_options`, and for
        a schema whose shortest answer does not fit."""
        sampler, limit = self._sampler(options), token_limit(options, self.manifest.generation)
        constraint = None
        if options.schema is not None:
            # The last token of an answer needs no place in the context.
            left = self.manifest.decoding.context_length - len(prompt.keys) + 1
            schema = self._schemas.get(options.schema, options.thinking)
            constraint = Constraint(schema, min(limit, left))
        generate = partial(self._generate, prompt, sampler, limit, options.thinking, constraint)
        return ChatStream(generate)

    def check_options(self, options: ChatOptions) -> None:
        """Raises `InputError` for options of sampling that are out of their range, and for a schema
        that answers cannot be held to."""
        token_limit(options, self.manifest.generation)
        self._sampler(options)
        if options.schema is not None:
            self._schemas.get(options.schema, options.thinking)

    def _sampler(self, options: ChatOptions) -> Sampler:
        return sampler_for(options, self.manifest.generation)

    def _generate(
        self,
        prompt: PreparedPrompt,
        sampler: Sampler,
        limit: int,
        thinking: bool,
        constraint: Constraint | None,
        stream: ChatStream,
    ) -> Iterator[str]:
        with self._owned_by(stream):
            logits = self._prefill(prompt, stream.statistics)
        # As published: only the terminators are hidden, <box> and its like belong to the answer.
        text = StreamDecoder(self.tokenizer, skip_special=False)
        if thinking:
            yield self.manifest.prompt.special_tokens["think_start"].content + "\n"
        guesses = None
        if self.speculate and sampler.temperature == 0:
            guesses = PromptLookup([key if isinstance(key, int) else -1 for key in prompt.keys])
        choose = sampler.next_token
        if constraint is not None:
            choose = partial(constraint.next_token, sampler)
        begin = time.perf_counter()
        while stream.finish_reason is None:
            token = choose(logits, stream.token_ids)
            position = len(prompt.keys) + len(stream.token_ids)
            stream.finish_reason = self._finish_reason(token, stream, limit, position, constraint)
            if stream.cancelled or token in self.manifest.prompt.stop_token_ids:
                break
            stream.token_ids.append(token)
            stream.statistics.new_tokens += 1
            if stream.on_token is not None:
                stream.on_token(token, logits)
            if piece := text.push(token):
                yield piece
            if stream.finish_reason is None:
                with self._owned_by(stream, begins=False):
                    logits = self._next_logits(token, guesses, limit, stream)
            stream.statistics.decode_seconds = time.perf_counter() - begin
        if rest := text.flush():
            yield rest

    def _next_logits(
        self, token: int, guesses: PromptLookup | None, limit: int, stream: ChatStream
    ) -> Array:
        if guesses is None:
            return self._decode(token)
        logits = self._decode_ahead(token, guesses, limit - len(stream.token_ids))
        stream.statistics.drafted_tokens = guesses.drafted
        stream.statistics.accepted_tokens = guesses.accepted
        return logits

    def _finish_reason(
        self,
        token: int,
        stream: ChatStream,
        limit: int,
        position: int,
        constraint: Constraint | None,
    ) -> str | None:
        if stream.cancelled:
            return "cancelled"
        if constraint is not None and constraint.is_over:
            return "length" if constraint.was_shortened else "stop"
        if token in self.manifest.prompt.stop_token_ids:
            return "stop"
        if len(stream.token_ids) + 1 >= limit:
            return "length"
        if position >= self.manifest.decoding.context_length:
            return "context_full"
        return None


def _group_digest(prompt: PreparedPrompt, n: int) -> bytes:
    start = prompt.encoded.image_bound[n, 0]
    key = prompt.keys[int(start)]
    assert not isinstance(key, int)
    return key[0]
