"""A bundle as a model of VLMEvalKit (OpenCompass), for pictures and videos.

Its interface is that of the kit's `BaseModel`, by name: the kit asks for no base class, so it is
not imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from mobile_runtime.errors import InputError
from mobile_runtime.session import Session
from validation.harnesses.answering import answer_of, engine_options, greedy_options

_KINDS = ("text", "image", "video")


class BundleVLM:
    """A bundle, run by any engine: greedy answers to messages of texts, pictures and videos.

    The kit gives a message as a list of {"type": "text" | "image" | "video", "value": …}, in the
    order in which the model is to read them.
    """

    INTERLEAVE, VIDEO_LLM, is_api = True, True, False

    def __init__(  # noqa: PLR0913  # the kit gives them by name
        self,
        bundle: str,
        engine: str = "auto",
        precision: Literal["fp32", "fp16"] = "fp16",
        threads: int = 0,
        max_new_tokens: int = 1024,
        max_slice_nums: int | None = None,
        enable_thinking: bool = False,
    ) -> None:
        self.session = Session.load(bundle, engine_options(engine, precision, threads))
        self._options = greedy_options(max_new_tokens, max_slice_nums, enable_thinking)
        self.dump_image_func: Callable[[Any], Any] | None = None

    def use_custom_prompt(self, dataset: str) -> bool:
        """False: the questions of a benchmark are asked as it says."""
        return False

    def set_dump_image(self, dump_image_func: Callable[[Any], Any]) -> None:
        """Keep the function that writes a row's pictures to files."""
        self.dump_image_func = dump_image_func

    def dump_image(self, line: Any, dataset: str | None) -> Any:
        """Write a row's pictures to files; returns their paths."""
        assert self.dump_image_func is not None, "the kit sets it before it asks"
        return self.dump_image_func(line)

    def generate(
        self, message: str | Sequence[str | Mapping[str, Any]], dataset: str | None = None
    ) -> str:
        """The answer to a message. Raises `InputError` for a part of another kind."""
        items = [message] if isinstance(message, str) else message
        content = [_part(item) for item in items]
        return answer_of(self.session, [{"role": "user", "content": content}], self._options)


def _part(item: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(item, str):
        return {"type": "text", "text": item}
    kind = item["type"]
    if kind not in _KINDS:
        raise InputError(f"a message has a part of type {kind}; give {', '.join(_KINDS)}.")
    return {"type": kind, kind: item["value"]}
