"""The thread that answers one model's requests, one after another, and what it tells of them.

Knows sessions; knows nothing of HTTP.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mobile_runtime.chat.conversation import PreparedPrompt
from mobile_runtime.chat.stream import ChatStream, Statistics
from mobile_runtime.errors import InputError
from mobile_runtime.sampling.structured.grammar import SchemaError
from mobile_runtime.serve.answer_text import AnswerText, Part
from mobile_runtime.serve.api_error import ApiError
from mobile_runtime.serve.chat_request import ChatRequest
from mobile_runtime.serve.fair_queue import FairQueue
from mobile_runtime.serve.interruptible import interruptible
from mobile_runtime.serve.kept_sessions import KeptSessions
from mobile_runtime.serve.messages import videos_as_files
from mobile_runtime.serve.token_scores import TokenScore, TokenScores
from mobile_runtime.session import Session


@dataclass(frozen=True)
class Started:
    """The request is good, and its answer is being computed."""


@dataclass(frozen=True)
class Delta:
    """A piece of the answer or of the thoughts before it, with the tokens that begin in it."""

    part: Part
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The end: "stop" or "length", counts and times, and how many tokens were thoughts."""

    reason: str
    statistics: Statistics
    reasoning_tokens: int


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no more of it."""

    error: ApiError


Event = Started | Delta | Finished | Failed


@dataclass(eq=False)
class Job:
    """A request that waits or is answered. `post` takes its events, in any thread; `deadline` is a
    time of `time.monotonic()`, at which an answer ends."""

    client: str
    request: ChatRequest
    deadline: float
    post: Callable[[Event], None]
    cancelled: threading.Event = field(default_factory=threading.Event)

    def is_over(self) -> bool:
        """Whether nobody waits for it any more, or its time is over."""
        return self.cancelled.is_set() or time.monotonic() > self.deadline


class _Interrupted(Exception):
    """Nobody waits for the running answer any more, or its time is over."""


# Why the stream of a session ended -> OpenAI's word; "cancelled" is the limit of time.
_REASONS = {"stop": "stop", "length": "length", "context_full": "length", "cancelled": "length"}
_LATE = ApiError(503, "The prompt took too long; ask again later, or shorter.", retry_after=60)
_INTERNAL = "The server failed at this request; its own log has the reason."


class Worker:
    """Answers the requests of `queue` with forks of `session`, up to `kept` of them. `files` is the
    folder of files that messages name, which errors leave out of their sentences."""

    def __init__(self, session: Session, kept: int, files: Path | None = None) -> None:
        self.session, self.queue = session, FairQueue[Job]()
        self.running: Job | None = None
        self._files = files
        block = session.manifest.decoding.prefill_length
        session.model = interruptible(session.model, block, self._check_running)
        self._kept = KeptSessions(session, kept)
        # It must not keep the process: one block of rows may take longer than anybody waits.
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End the answer that is computed and take no other; waits for it up to `seconds`."""
        self.refuse_waiting()
        if (running := self.running) is not None:
            running.cancelled.set()
        self._thread.join(seconds)

    def refuse_waiting(self) -> None:
        """Take no request any more, and tell those that wait."""
        stopping = ApiError(503, "The server is stopping; ask again later.", retry_after=5)
        for job in self.queue.close():
            job.post(Failed(stopping))

    def cancel(self, job: Job) -> None:
        """Nobody waits for this answer any more."""
        job.cancelled.set()
        self.queue.remove(job)

    def _check_running(self) -> None:
        job = self.running
        if job is not None and job.is_over():
            raise _Interrupted

    def _run(self) -> None:
        while (job := self.queue.take()) is not None:
            self.running = job
            if not job.cancelled.is_set():
                self._answer(job)
            self.running = None

    def _answer(self, job: Job) -> None:
        try:
            prompt = self._prepare(job.request)
            if job.cancelled.is_set():
                return
            session = self._kept.take(prompt)
            stream = session.answer(prompt, job.request.options)
        except (InputError, ApiError) as error:
            job.post(Failed(self._told(error, 400)))
            return
        except Exception as error:
            job.post(Failed(self._told(error, 500)))
            return
        try:
            for event in self._events(job, session, stream):
                job.post(event)
        except _Interrupted:
            job.post(Failed(_LATE))
        except Exception as error:
            self._kept.forget(session)
            job.post(Failed(self._told(error, 500)))

    def _prepare(self, request: ChatRequest) -> PreparedPrompt:
        """Raises `InputError` before pictures are read, if that is possible."""
        self.session.check_options(request.options)
        with videos_as_files(request.messages) as messages:
            return self.session.prepare(messages, request.options)

    def _told(self, error: Exception, status: int) -> ApiError:
        """What a client is told. Other exceptions than `InputError` are faults of ours."""
        if isinstance(error, ApiError):
            return error
        if not isinstance(error, InputError):
            traceback.print_exception(error, file=sys.stderr)
            return ApiError(500, _INTERNAL)
        text = str(error)
        if self._files is not None:
            text = text.replace(f"{self._files.resolve()}/", "")
        param = "response_format" if isinstance(error, SchemaError) else None
        return ApiError(status, text, param=param)

    def _events(self, job: Job, session: Session, stream: ChatStream) -> Iterator[Event]:
        request = job.request
        scores = TokenScores(session.tokenizer, request.top_logprobs)
        text = AnswerText(request.thinking, request.stops)
        thoughts = _Thoughts(session, request.thinking)

        def on_token(token: int, logits: object) -> None:
            scores.add(token, logits)
            thoughts.count(token)
            if job.is_over():
                stream.cancel()

        stream.on_token = on_token
        yield Started()
        for part in _parts(stream, text, scores):
            yield Delta(part, () if part.is_thought else scores.within(part.begin, part.end))
        reason = "stop" if text.stopped else _REASONS[stream.finish_reason or "stop"]
        yield Finished(reason, stream.statistics, thoughts.tokens)


def _parts(stream: ChatStream, text: AnswerText, scores: TokenScores) -> Iterator[Part]:
    """Parts of the text until it ends, or a stop sequence ends it."""
    for piece in stream:
        scores.place(len(piece))
        yield from text.push(piece)
        if text.stopped:
            return
    yield from text.flush()


class _Thoughts:
    """Counts the tokens of an answer up to the one that ends its thoughts."""

    def __init__(self, session: Session, thinking: bool) -> None:
        special = session.manifest.prompt.special_tokens
        self._end = special["think_end"].id if "think_end" in special else None
        self._open, self.tokens = thinking, 0

    def count(self, token: int) -> None:
        """Take the next token."""
        self.tokens += self._open
        self._open = self._open and token != self._end
