"""The body of POST /v1/chat/completions, checked: what is asked, with the session's options.

Every field is read, ignored for a reason, or refused; none is passed over in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobile_runtime.chat.messages import read_turns
from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.errors import InputError
from mobile_runtime.sampling.structured.schema import ANY_OBJECT
from mobile_runtime.serve.api_error import ApiError
from mobile_runtime.serve.messages import read_messages
from mobile_runtime.session import ChatOptions

MOST_STOPS, MOST_TOP_LOGPROBS = 4, 20  # OpenAI's
_LONGEST_STOP = 1000  # letters, which are held back from the stream while they may match
# Fields that change no answer here.
IGNORED: Mapping[str, str] = {
    "user": "who asks is known by key or address",
    "safety_identifier": "who asks is known by key or address",
    "metadata": "nothing is stored",
    "store": "nothing is stored",
    "service_tier": "there is one",
    "prompt_cache_key": "shared beginnings are found without it",
    "prompt_cache_retention": "caches stay until others need their memory",
    "parallel_tool_calls": "there are no tools",
}
# Fields that are taken only with the values at which they do nothing, and what to do instead.
NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "n": ((1,), "ask several times, with other seeds"),
    "frequency_penalty": ((0,), "use repetition_penalty"),
    "presence_penalty": ((0,), "use repetition_penalty"),
    "logit_bias": (({},), "leave it out"),
    "tools": (([],), "describe them in the messages"),
    "tool_choice": (("none", "auto"), "leave it out"),
    "functions": (([],), "describe them in the messages"),
    "function_call": (("none", "auto"), "leave it out"),
    "modalities": ((["text"],), "leave it out"),
    "audio": ((), "leave it out"),
    "prediction": ((), "leave it out"),
    "verbosity": (("medium",), "ask for it in the messages"),
    "web_search_options": ((), "leave it out"),
}
# OpenAI's efforts, and whether the model thinks first.
EFFORTS: Mapping[str, bool] = {
    "none": False,
    "minimal": False,
    "low": True,
    "medium": True,
    "high": True,
    "xhigh": True,
}


@dataclass(frozen=True)
class ChatRequest:
    """One question. `messages` follow the session's convention; a picture is a data URI or a path.
    `top_logprobs` is None if no logprobs are asked for."""

    model: str
    messages: tuple[Mapping[str, Any], ...]
    options: ChatOptions
    stops: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    top_logprobs: int | None = None

    @property
    def thinking(self) -> bool:
        """Whether the model thinks before it answers."""
        return self.options.prompt.enable_thinking is True


def parse_request(body: bytes, files: Path | None) -> ChatRequest:
    """Check a request; `files` is the folder whose files it may name, if there is one. Raises
    `ApiError` for the first thing that is wrong."""
    fields = {name: value for name, value in _read_json(body).items() if value is not None}
    _check_names(fields)
    if "model" not in fields or "messages" not in fields:
        raise ApiError(400, "A request needs model and messages; GET /v1/models names the models.")
    messages = tuple(read_messages(fields["messages"], files))
    try:
        read_turns(messages)
    except InputError as error:
        raise ApiError(400, str(error), param="messages") from error
    streams = _value(fields, "stream", bool, False)
    return ChatRequest(
        model=_value(fields, "model", str, ""),
        messages=messages,
        options=_options(fields),
        stops=_stops(fields.get("stop")),
        stream=streams,
        include_usage=_include_usage(fields, streams),
        top_logprobs=_top_logprobs(fields),
    )


def _read_json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not valid JSON ({error}); send a JSON object.") from error
    if not isinstance(value, dict):
        raise ApiError(400, f"The body is a {type(value).__name__}; send a JSON object.")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check_names(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name in NEUTRAL:
            allowed, remedy = NEUTRAL[name]
            if not any(type(value) is not bool and value == one for one in allowed):
                raise ApiError(
                    400,
                    f"{name} is {_shown(value)}, which is not supported here; {remedy}.",
                    param=name,
                    code="unsupported_value",
                )
        elif name not in IGNORED and name not in READ:
            raise ApiError(
                400,
                f"There is no field {name[:60]!r}; there are {', '.join(READ)}.",
                param=name[:60],
                code="unknown_parameter",
            )


def _options(fields: Mapping[str, Any]) -> ChatOptions:
    temperature = _value(fields, "temperature", float, None)
    penalty = _value(fields, "repetition_penalty", float, None)
    if temperature == 0 and penalty is None:
        penalty = 1.0  # the best token, as OpenAI's clients expect it
    return ChatOptions(
        prompt=PromptOptions(enable_thinking=_thinking(fields)),
        max_slice_nums=_value(fields, "max_slice_nums", int, None),
        temperature=temperature,
        top_k=_value(fields, "top_k", int, None),
        top_p=_value(fields, "top_p", float, None),
        repetition_penalty=penalty,
        seed=_value(fields, "seed", int, None),
        max_new_tokens=_most_tokens(fields),
        schema=_schema(fields),
    )


def _schema(fields: Mapping[str, Any]) -> Any:
    """The schema of the answer, None if it is text. Its keywords are checked with the model."""
    form = _value(fields, "response_format", dict, {"type": "text"})
    kind = form.get("type")
    if kind == "text":
        return None
    if fields.get("stop"):
        raise ApiError(
            400, "stop would cut an answer with a response_format; leave it out.", param="stop"
        )
    if kind == "json_object":
        return ANY_OBJECT
    described = form.get("json_schema")
    if kind == "json_schema" and isinstance(described, dict):
        schema = described.get("schema")
        if isinstance(schema, dict | bool):
            return schema
    raise ApiError(
        400,
        f"response_format is {_shown(form)}; its type may be text, json_object, or json_schema "
        "with json_schema.schema.",
        param="response_format",
    )


def _most_tokens(fields: Mapping[str, Any]) -> int | None:
    names = ("max_completion_tokens", "max_tokens")  # the second is OpenAI's older name
    given = {name: _value(fields, name, int, None) for name in names if name in fields}
    for name, value in given.items():
        if value < 1:
            raise ApiError(400, f"{name} is {value}; give 1 or more.", param=name)
    if len(set(given.values())) > 1:
        raise ApiError(400, f"{' and '.join(names)} differ; give one of them.", param=names[0])
    return next(iter(given.values()), None)


def _thinking(fields: Mapping[str, Any]) -> bool:
    """By either switch; without one the model does not think."""
    settings = _value(fields, "chat_template_kwargs", dict, {})
    if unknown := sorted(map(str, settings.keys() - {"enable_thinking"})):
        raise ApiError(
            400,
            f"chat_template_kwargs has {', '.join(unknown)[:80]}; it may have enable_thinking.",
            param="chat_template_kwargs",
        )
    said = {_value(settings, "enable_thinking", bool, None)} - {None}
    effort = _value(fields, "reasoning_effort", str, None)
    if effort is not None and effort not in EFFORTS:
        raise ApiError(
            400,
            f"reasoning_effort is {effort[:40]!r}; it may be {', '.join(EFFORTS)}.",
            param="reasoning_effort",
        )
    said |= {EFFORTS[effort]} if effort is not None else set()
    if len(said) > 1:
        raise ApiError(
            400,
            "reasoning_effort and enable_thinking contradict each other; give one of them.",
            param="reasoning_effort",
        )
    return True in said


def _stops(given: Any) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else [] if given is None else given
    good = isinstance(stops, list) and len(stops) <= MOST_STOPS
    if not good or not all(isinstance(s, str) and 0 < len(s) <= _LONGEST_STOP for s in stops):
        raise ApiError(
            400,
            f"stop is {_shown(given)}; give a text or up to {MOST_STOPS} of them, each of 1 to "
            f"{_LONGEST_STOP} letters.",
            param="stop",
        )
    return tuple(stops)


def _include_usage(fields: Mapping[str, Any], streams: bool) -> bool:
    settings = _value(fields, "stream_options", dict, {})
    allowed = {"include_usage", "include_obfuscation"}  # the second pads chunks: nothing to hide
    if settings and not streams:
        raise ApiError(
            400, "stream_options is given without stream; leave it out.", param="stream_options"
        )
    if unknown := sorted(map(str, settings.keys() - allowed)):
        raise ApiError(
            400,
            f"stream_options has {', '.join(unknown)[:80]}; it may have include_usage.",
            param="stream_options",
        )
    return bool(_value(settings, "include_usage", bool, False))


def _top_logprobs(fields: Mapping[str, Any]) -> int | None:
    wanted = _value(fields, "logprobs", bool, False)
    count: int | None = _value(fields, "top_logprobs", int, None)
    if count is not None and (not wanted or not 0 <= count <= MOST_TOP_LOGPROBS):
        raise ApiError(
            400,
            f"top_logprobs is {count}; it may be 0 to {MOST_TOP_LOGPROBS}, with logprobs true.",
            param="top_logprobs",
        )
    return (count or 0) if wanted else None


_WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "an object",
}


def _value(fields: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """The field as `kind`, or `default` without one."""
    value = fields.get(name)
    if value is None:
        return default
    if kind is float and type(value) is int and abs(value) <= 1e9:
        value = float(value)
    if type(value) is not kind:
        raise ApiError(400, f"{name} is {_shown(value)}; give {_WORDS[kind]}.", param=name)
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


# Fields that are read, in the order in which an error names them.
READ: Sequence[str] = (
    *("model", "messages", "stream", "stream_options", "temperature", "top_p", "top_k"),
    *("repetition_penalty", "seed", "max_completion_tokens", "max_tokens", "stop", "logprobs"),
    *("top_logprobs", "reasoning_effort", "chat_template_kwargs", "max_slice_nums"),
    "response_format",
)
