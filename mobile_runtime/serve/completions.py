"""Answers in OpenAI's shapes: the whole completion, and the chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.serve.chat_request import ChatRequest
from mobile_runtime.serve.token_scores import TokenScore, as_logprobs
from mobile_runtime.serve.worker import Delta, Finished


def to_json(value: Any) -> bytes:
    """JSON in ASCII: a text may hold half a character, which has no UTF-8."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def server_sent(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + to_json(value) + b"\n\n"


SERVER_SENT_END = b"data: [DONE]\n\n"


@dataclass
class Completion:
    """One answer: what all its chunks share, and what it holds so far. `fingerprint` names the
    bundle."""

    request: ChatRequest
    tokenizer: Tokenizer
    fingerprint: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _deltas: list[Delta] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        """Keep a piece for `whole`."""
        self._deltas.append(delta)

    def whole(self, end: Finished) -> dict[str, Any]:
        """The answer as one object."""
        message: dict[str, Any] = {"role": "assistant", "content": self._text(False)}
        if self.request.thinking:
            message["reasoning_content"] = self._text(True)
        scores = [score for delta in self._deltas for score in delta.scores]
        choice = {
            "index": 0,
            "message": {**message, "refusal": None},
            "logprobs": self._logprobs(scores),
            "finish_reason": end.reason,
        }
        return self._object("chat.completion", [choice]) | self._counts(end)

    def first_chunk(self) -> dict[str, Any]:
        """The chunk that names the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """A piece of text."""
        name = "reasoning_content" if delta.part.is_thought else "content"
        return self._chunk({name: delta.part.text}, scores=delta.scores)

    def last_chunks(self, end: Finished) -> list[dict[str, Any]]:
        """The reason of the end, and the counts if they are asked for."""
        chunks = [self._chunk({}, reason=end.reason)]
        if self.request.include_usage:
            chunks.append(self._object("chat.completion.chunk", []) | self._counts(end))
        return chunks

    def _text(self, is_thought: bool) -> str:
        parts = (delta.part for delta in self._deltas)
        return "".join(part.text for part in parts if part.is_thought == is_thought)

    def _chunk(
        self,
        delta: dict[str, str],
        scores: Sequence[TokenScore] = (),
        reason: str | None = None,
    ) -> dict[str, Any]:
        logprobs = self._logprobs(scores) if scores else None
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._object("chat.completion.chunk", [choice])

    def _logprobs(self, scores: Sequence[TokenScore]) -> Any:
        return None if self.request.top_logprobs is None else as_logprobs(self.tokenizer, scores)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }

    def _counts(self, end: Finished) -> dict[str, Any]:
        """Tokens in OpenAI's `usage`, and our own `timings` in seconds."""
        counts = end.statistics
        return {
            "usage": {
                "prompt_tokens": counts.prompt_tokens,
                "completion_tokens": counts.new_tokens,
                "total_tokens": counts.prompt_tokens + counts.new_tokens,
                "prompt_tokens_details": {"cached_tokens": counts.reused_tokens},
                "completion_tokens_details": {"reasoning_tokens": end.reasoning_tokens},
            },
            "timings": {
                "vision_seconds": round(counts.vision_seconds, 4),
                "prefill_seconds": round(counts.prefill_seconds, 4),
                "decode_seconds": round(counts.decode_seconds, 4),
                "video_frames": counts.video_frames,
            },
        }
