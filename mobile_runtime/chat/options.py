"""How an answer is asked for, and what follows for its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mobile_runtime.bundle import Generation, SamplingDefaults
from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.errors import InputError
from mobile_runtime.sampling.sampling import Sampler


@dataclass(frozen=True)
class ChatOptions:
    """Options of the published chat(); None takes the published default. With `schema`, a JSON
    Schema, the answer is JSON that fits it; thoughts before it are free."""

    prompt: PromptOptions = PromptOptions()
    max_slice_nums: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    schema: Mapping[str, Any] | bool | None = None

    @property
    def thinking(self) -> bool:
        """Whether the model thinks before it answers."""
        return self.prompt.enable_thinking is True


GREEDY = ChatOptions(temperature=0.0, repetition_penalty=1.0)


def token_limit(options: ChatOptions, generation: Generation) -> int:
    """Most tokens of the answer. Raises `InputError` for less than one."""
    limit = options.max_new_tokens
    if limit is None:
        limit = generation.max_new_tokens
    if limit < 1:
        raise InputError(f"max_new_tokens is {limit}; give 1 or more.")
    return limit


def sampler_for(options: ChatOptions, generation: Generation) -> Sampler:
    """What chooses the answer's tokens. Raises `InputError` for options that are out of range."""
    defaults: SamplingDefaults = generation.thinking if options.thinking else generation.answer

    def chosen(value: Any, default: Any) -> Any:
        return default if value is None else value

    return Sampler(
        temperature=chosen(options.temperature, defaults.temperature),
        top_k=chosen(options.top_k, defaults.top_k),
        top_p=chosen(options.top_p, defaults.top_p),
        repetition_penalty=chosen(options.repetition_penalty, defaults.repetition_penalty),
        seed=options.seed,
    )
