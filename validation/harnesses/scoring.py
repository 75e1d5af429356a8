"""What harnesses ask of a text model, answered by a bundle: likelihoods of tokens, and answers.

Only whole blocks of the prefill are reused between requests. So a figure does not depend on what
was asked before, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mobile_runtime.chat.messages import read_turns
from mobile_runtime.chat.prompt import PromptOptions, encode_prompt
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.sampling.sampling import Sampler
from mobile_runtime.session import Session
from validation.parity.metrics import log_softmax

Array = np.ndarray


class TextScorer:
    """An open bundle that reads and continues tokens outside of any chat."""

    def __init__(self, bundle: Path, options: EngineOptions = EngineOptions()) -> None:
        self.session = Session.load(bundle, options)
        self._held: list[int] = []

    @property
    def context_length(self) -> int:
        """Most tokens that are read at a time."""
        return self.session.manifest.decoding.context_length

    def loglikelihood(
        self, context: Sequence[int], continuation: Sequence[int]
    ) -> tuple[float, bool]:
        """(logarithm of the probability of `continuation` after `context`, in nats; whether each of
        its tokens is the most probable one).

        What does not fit in the context is cut off at the beginning, as the harness does for
        transformers. Raises `InputError` for an empty context or a longer continuation than fits.
        """
        room = self.context_length
        if not context or len(continuation) > room:
            raise InputError(
                f"a continuation of {len(continuation)} tokens after {len(context)} was given; "
                f"give at most {room}, the context of the bundle, after at least one."
            )
        if not continuation:
            return 0.0, True
        read = [*context, *continuation][:-1][-room:]
        likelihoods = log_softmax(self._logits(read, len(continuation)))
        targets = np.array(continuation)
        total = float(likelihoods[np.arange(len(targets)), targets].sum())
        return total, bool((likelihoods.argmax(-1) == targets).all())

    def generate(
        self, prompt: Sequence[int], sampler: Sampler, limit: int, until: Sequence[str]
    ) -> str:
        """Continue `prompt` by at most `limit` tokens, up to a token that ends an answer or the
        first of the texts `until`, which is left out. A prompt that leaves no room for `limit`
        tokens loses its beginning. Raises `InputError` for an empty prompt, and for a limit that is
        not 1 to one less than the context."""
        if not prompt or not 1 <= limit < self.context_length:
            raise InputError(
                f"{limit} new tokens after {len(prompt)} were asked for; ask for 1 to "
                f"{self.context_length - 1}, for which the context has room, after at least one."
            )
        read = list(prompt)[limit - self.context_length :]
        tokenizer, stop = self.session.tokenizer, self.session.manifest.prompt.stop_token_ids
        tokens: list[int] = []
        logits, text = self._logits(read, 1)[0], ""
        while len(tokens) < limit:
            token = sampler.next_token(logits, tokens)
            if token in stop:
                break
            tokens.append(token)
            text = tokenizer.decode(tokens)
            if any(end in text for end in until) or len(tokens) == limit:
                break
            row = self.session.model.embedding(np.array([token]))
            logits = self.session.model.decoder.next_logits(row, len(read) + len(tokens) - 1)
        return min((text.split(end)[0] for end in until), key=len, default=text)

    def _logits(self, tokens: list[int], keep: int) -> Array:
        """Logits (keep, vocab_size) after each of the last `keep` of the tokens."""
        decoder, step = self.session.model.decoder, self.session.manifest.decoding.prefill_length
        shared = 0
        for held, token in zip(self._held, tokens[: len(tokens) - keep], strict=False):
            if held != token:
                break
            shared += 1
        start = decoder.rewind(shared // step * step)
        self._held = []
        rows = self.session.model.embedding(np.array(tokens[start:]))
        logits = decoder.logits_of(rows, start, keep)
        if np.isnan(logits).any():
            raise InputError(
                "the model computed logits that are no numbers: weights of the bundle are damaged "
                "or overflow; export it again from intact weights."
            )
        self._held = tokens
        return logits

    def chat_text(
        self, messages: Sequence[dict[str, str]], opens_answer: bool, thinking: bool | None
    ) -> str:
        """Messages of texts as the model reads them, then the beginning of an answer. If
        `opens_answer` is false, the last message is that beginning. Raises `InputError` for
        messages that are not valid or spell a special token."""
        prompt = self.session.manifest.prompt
        for content in (token.content for token in prompt.special_tokens.values()):
            if any(content in message["content"] for message in messages):
                raise InputError(f"a message spells the special token {content}; take it out.")
        asked, begun = (messages, "") if opens_answer else (messages[:-1], messages[-1]["content"])
        encoded = encode_prompt(
            read_turns(asked),
            [],
            self.session.tokenizer,
            prompt,
            self.session.manifest.preprocessing,
            PromptOptions(enable_thinking=thinking),
        )
        return encoded.text + begun
