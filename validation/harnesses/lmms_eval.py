"""A bundle as a model of lmms-eval, called `bundle` there, for pictures and videos.

The harness finds it by the entry point `lmms_eval.models` of this project. It wants an environment
of its own, which `make lmms-eval` sets up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NoReturn

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from mobile_runtime.errors import InputError
from mobile_runtime.model.hub import bundle_folder
from mobile_runtime.session import Session
from validation.benchmark.facts import bundle_facts
from validation.harnesses.answering import (
    KeptAnswers,
    answer_of,
    chat_options,
    engine_options,
    greedy_options,
    question_digest,
)


def manifest() -> ModelManifest:
    """What the entry point gives the harness: the model's name and class."""
    return ModelManifest("bundle", chat_class_path=f"{__name__}.{BundleLMM.__name__}")


class BundleLMM(lmms):  # type: ignore[misc]
    """A bundle, run by any engine. Messages are answered one by one, as `Session.chat` answers
    them; the harness always names a device, and the engine decides instead."""

    is_simple = False  # takes messages, pictures in their places

    def __init__(  # noqa: PLR0913  # the harness gives them by name
        self,
        bundle: str,
        engine: str = "auto",
        precision: Literal["fp32", "fp16"] = "fp16",
        threads: int = 0,
        max_new_tokens: int = 128,
        max_slice_nums: int | None = None,
        kept: str | None = None,
        enable_thinking: bool = False,
        batch_size: int | str = 1,
        device: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1" or unknown:
            raise InputError(
                "a bundle answers one question at a time and takes bundle, engine, precision, "
                "threads, max_new_tokens, max_slice_nums, kept and enable_thinking; leave out "
                f"{', '.join(unknown) or 'batch_size'}."
            )
        options, folder = engine_options(engine, precision, threads), bundle_folder(bundle)
        self.session = Session.load(folder, options)
        self._options = greedy_options(max_new_tokens, max_slice_nums, enable_thinking)
        run = bundle_facts(folder, self.session.manifest, options) | asdict(self._options)
        self._kept = KeptAnswers(None if kept is None else Path(kept), run)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers, each kept as it is made. Raises `InputError` for an option that the runtime does
        not have."""
        return [self._answer(*request.args) for request in tqdm(requests, desc="answers")]

    def _answer(
        self, _: str, messages_of: Any, given: Any, number: int, task: str, split: str
    ) -> str:
        row = self.task_dict[task][split][number]
        messages = _own(ChatMessages(messages=messages_of(row)))
        options, until = chat_options(given, self._options)
        key = f"{task} {split} {number} {question_digest(messages, given)}"
        return self._kept.get(key, lambda: answer_of(self.session, messages, options, until))

    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        """Raises `InputError`: lm-eval scores texts."""
        raise InputError(
            "a task asks for likelihoods; a bundle answers with text here, and lm-eval's model "
            "scores texts."
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        """Raises `InputError`: rounds that depend on answers are not asked."""
        raise InputError("a task has several rounds; choose one whose questions stand alone.")


def _own(messages: ChatMessages) -> list[dict[str, Any]]:
    """The harness's messages as the session takes them. Raises `InputError` for sound and for a
    part of a video."""
    found = messages.to_hf_messages()
    parts = [part for message in found for part in message["content"]]
    for part in parts:
        if part["type"] == "audio" or "video_start" in part or "video_end" in part:
            raise InputError(
                "a task gives sound or a part of a video; a bundle takes text, pictures and whole "
                "videos."
            )
    return list(found)
