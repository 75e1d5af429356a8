"""What a request may say: each mistake is a 400 that names its field."""

import base64
import json
from pathlib import Path

import pytest
from PIL import Image

from mobile_runtime.serve.api_error import ApiError
from mobile_runtime.serve.chat_request import IGNORED, NEUTRAL, parse_request
from mobile_runtime.serve.messages import videos_as_files

PIXEL = "data:image/png;base64,iVBORw0KGgo="
HI = [{"role": "user", "content": "Hi"}]


def parse(files=None, **fields):
    body = {"model": "m", "messages": HI, **fields}
    return parse_request(json.dumps(body).encode(), files)


def shown(url, kind="image_url", **beside):
    return [{"role": "user", "content": [{"type": kind, kind: {"url": url}, **beside}]}]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"colour": 1}, "colour", "There is no field 'colour'"),
        ({"n": 2}, "n", "ask several times"),
        ({"n": True}, "n", "n is true"),
        ({"tools": [{}]}, "tools", "not supported here"),
        ({"response_format": {"type": "xml"}}, "response_format", "may be text, json_object"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": None}}},
            "response_format",
            "json_schema.schema",
        ),
        ({"response_format": "json"}, "response_format", "give an object"),
        ({"response_format": {"type": "json_object"}, "stop": "}"}, "stop", "would cut"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "use repetition_penalty"),
        ({"temperature": "hot"}, "temperature", "give a number"),
        ({"temperature": True}, "temperature", "give a number"),
        ({"max_tokens": 0}, "max_tokens", "give 1 or more"),
        ({"max_tokens": 1.5}, "max_tokens", "give a whole number"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "differ"),
        ({"stream": 1}, "stream", "give true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "without stream"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options", "has x"),
        ({"stop": ["a"] * 5}, "stop", "up to 4"),
        ({"stop": ""}, "stop", "give a text"),
        ({"stop": [1]}, "stop", "give a text"),
        ({"top_logprobs": 3}, "top_logprobs", "with logprobs true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "0 to 20"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "may be none"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs", "enable_thinking"),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            "reasoning_effort",
            "contradict",
        ),
        ({"messages": []}, "messages", "a list of 1"),
        ({"messages": "Hi"}, "messages", "a list of 1"),
        ({"messages": [3]}, "messages[0]", "an object"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages", "the role 'tool'"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages", "text or a list"),
        ({"messages": [{"role": "user", "content": "", "tool_calls": [1]}]}, "messages[0]", "tool"),
        ({"messages": shown("http://e.org/a.png")}, "messages[0].content[0]", "data: URL"),
        ({"messages": shown("a.png")}, "messages[0].content[0]", "no --files"),
        ({"messages": shown(3)}, "messages[0].content[0]", "must be"),
        ({"messages": shown(PIXEL, "input_audio")}, "messages[0].content[0]", "of type text"),
        ({"messages": shown(PIXEL, fps=2)}, "messages[0].content[0]", "must be"),
        ({"messages": shown(PIXEL, "video_url", fps=0)}, "messages", "fps"),
        ({"messages": shown(PIXEL, background="no such")}, "messages", "background"),
    ],
)
def test_a_mistake_is_refused_with_its_field(fields, param, words):
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    error = caught.value
    assert (error.status, error.param) == (400, param)
    assert words in error.message and error.message.endswith((".", "Hi"))


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"model": NaN}', b"[" * 10_000, b"\xff"])
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(ApiError, match="The body is") as caught:
        parse_request(body, None)
    assert caught.value.status == 400


def test_fields_that_change_nothing_pass():
    neutral = {name: allowed[0] for name, (allowed, _) in NEUTRAL.items() if allowed}
    asked = parse(**dict.fromkeys(IGNORED, "x"), **neutral, top_p=None)
    assert asked == parse()


def test_a_format_of_the_answer_is_a_schema():
    def schema_of(form):
        return parse(response_format=form).options.schema

    assert schema_of({"type": "text"}) is None
    assert schema_of({"type": "json_object"}) == {"type": "object"}
    described = {"name": "n", "strict": True, "schema": {"type": "integer"}}
    assert schema_of({"type": "json_schema", "json_schema": described}) == {"type": "integer"}


def test_temperature_zero_is_the_best_token():
    assert parse(temperature=0).options.repetition_penalty == 1.0
    assert parse(temperature=0, repetition_penalty=1.2).options.repetition_penalty == 1.2
    assert parse(temperature=0.5).options.repetition_penalty is None


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
    ],
)
def test_both_switches_let_the_model_think(fields, thinking):
    assert parse(**fields).thinking is thinking


def test_messages_take_the_session_s_form():
    given = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "Ann", "content": shown(PIXEL)[0]["content"]},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": []},
        *shown(PIXEL, "video_url", fps=2, background=None),
    ]
    assert list(parse(messages=given).messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": PIXEL}]},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "video", "video": PIXEL, "fps": 2}]},
    ]


@pytest.fixture
def folder(tmp_path):
    """A folder with a picture, one beside it, and a link that leads out."""
    inside = tmp_path / "inside"
    inside.mkdir()
    for path in (inside / "a b.png", tmp_path / "secret.png"):
        Image.new("RGB", (2, 2)).save(path)
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    return inside


def test_files_of_the_folder_are_named_by_path_or_url(folder):
    for url in ("a b.png", f"{folder}/a b.png", f"file://{folder}/a%20b.png"):
        (message,) = parse(folder, messages=shown(url)).messages
        assert message["content"][0]["image"] == str(folder / "a b.png")


@pytest.mark.parametrize(
    "url", ["../secret.png", "link.png", "{}/secret.png", "file://{}/secret.png", "", ".", "x.png"]
)
def test_no_other_file_is_read(folder, url):
    with pytest.raises(ApiError, match="no file below the folder") as caught:
        parse(folder, messages=shown(url.format(folder.parent)))
    assert caught.value.status == 400


def test_videos_in_data_urls_are_files_for_a_while():
    data = b"a film"
    url = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
    messages = parse(messages=shown(url, "video_url", packing=2)).messages
    with videos_as_files(messages) as found:
        (part,) = found[0]["content"]
        assert part["packing"] == 2
        path = Path(part["video"])
        assert path.read_bytes() == data
    assert not path.exists() and not path.parent.exists()
