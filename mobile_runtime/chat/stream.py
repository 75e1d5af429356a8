"""The stream of one answer, with what is counted while it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field

import numpy as np

Array = np.ndarray


@dataclass
class Statistics:
    """Counts of tokens and times in seconds of one answer, and of the frames of videos that the
    model has seen for it."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    video_frames: int = 0
    vision_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    drafted_tokens: int = 0  # guesses that were run, see `Session.speculate`
    accepted_tokens: int = 0


@dataclass
class ChatStream:
    """Iterate for pieces of text; `cancel` ends the answer before the next token.

    `generate` gives the pieces and keeps the other fields up to date as they are read. `on_token`
    is called with each token of the answer and the logits (vocab_size,) that it was chosen from,
    before the piece of text that it completes.
    """

    generate: InitVar[Callable[[ChatStream], Iterator[str]]]
    pieces: Iterator[str] = field(init=False, repr=False)
    statistics: Statistics = field(init=False, default_factory=Statistics)
    token_ids: list[int] = field(init=False, default_factory=list)
    finish_reason: str | None = field(init=False, default=None)  # see `Session.chat`
    on_token: Callable[[int, Array], None] | None = field(init=False, default=None)
    _cancelled: bool = field(init=False, default=False)

    def __post_init__(self, generate: Callable[[ChatStream], Iterator[str]]) -> None:
        self.pieces = generate(self)

    def __iter__(self) -> Iterator[str]:
        return self.pieces

    def cancel(self) -> None:
        """End the answer; what was computed stays in the cache."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled
