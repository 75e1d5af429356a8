"""A question about generated pictures, with its exact answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mobile_runtime.chat.prompt import PromptOptions
from validation.questions.picture import Picture


@dataclass(frozen=True)
class QuestionTurn:
    """A question of the user and the right answer; `thoughts` come before the answer."""

    question: str
    answer: str
    thoughts: str | None = None


@dataclass(frozen=True)
class Question:
    """A conversation about `pictures`, all shown in its first turn; the last turn is scored.

    `temporal_ids` makes the pictures frames of a video, packed in these groups.
    """

    pictures: tuple[Picture, ...]
    turns: tuple[QuestionTurn, ...]
    temporal_ids: tuple[tuple[int, ...], ...] | None = None

    @property
    def max_slice_nums(self) -> int | None:
        """Frames of a video are never sliced."""
        return None if self.temporal_ids is None else 1

    def options(self) -> PromptOptions:
        """Options with which the last turn is asked."""
        thinking = self.turns[-1].thoughts is not None
        if self.temporal_ids is None:
            return PromptOptions(enable_thinking=thinking)
        return PromptOptions(thinking, use_image_id=False, temporal_ids=self.temporal_ids)

    def messages(self, answers: Sequence[str]) -> list[dict[str, Any]]:
        """The conversation up to the question that follows `answers`, those to earlier turns."""
        parts = [{"type": "image", "image": picture.image} for picture in self.pictures]
        messages: list[dict[str, Any]] = []
        for n, turn in enumerate(self.turns[: len(answers) + 1]):
            text = {"type": "text", "text": turn.question}
            messages.append({"role": "user", "content": [*parts, text] if n == 0 else [text]})
            if n < len(answers):
                messages.append({"role": "assistant", "content": answers[n]})
        return messages
