"""The server as a process: the official client, many clients at once, clients that leave, signals.

Expected answers are those of a `Session` in this process.
"""

import base64
import http.client
import io
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import jsonschema
import pytest

from export.cli import main as export
from mobile_runtime.cli import main
from mobile_runtime.engines import EngineOptions
from mobile_runtime.session import GREEDY, ChatOptions, Session
from tests.mobile_runtime.serve.server_process import running_server
from tests.mobile_runtime.turns import gradient, user
from tests.paths import PICTURES

pytest.importorskip("uvicorn", reason="needs the extra serve")
openai = pytest.importorskip("openai", reason="needs the official client")

SHORT = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=6)
KEYS = ("key-of-the-first-client", "key-of-the-second-client")


def data_url(image):
    png = io.BytesIO()
    image.save(png, "png")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def asked(text, picture=None):
    """A user's message in OpenAI's form."""
    parts = [{"type": "text", "text": text}]
    if picture is not None:
        parts.insert(0, {"type": "image_url", "image_url": {"url": data_url(picture)}})
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module")
def bundle(make_bundle):
    return make_bundle("none", "state", 512)


@pytest.fixture(scope="module")
def session(bundle):
    return Session.load(bundle, EngineOptions(precision="fp32"))


@pytest.fixture(scope="module")
def server(bundle):
    with running_server(bundle, "--precision", "fp32", "--max-waiting", "64") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.api, api_key="none", max_retries=0)


def create(client, bundle, messages, **fields):
    given = {"temperature": 0, "max_tokens": 6} | fields
    return client.chat.completions.create(model=bundle.name, messages=messages, **given)


def streamed(client, bundle, messages, **fields):
    chunks = create(client, bundle, messages, stream=True, **fields)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def get(url, key=None, **headers):
    """(status, headers, body) of a GET."""
    bearer = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers | bearer)) as got:
            return got.status, got.headers, got.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def metric(server, name, key=None):
    lines = get(f"{server.root}/metrics", key)[2].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"minicpmv_{name}"))


def eventually(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def check_formats(client, bundle, question):
    """Answers fit a schema, with thoughts and without; what cannot be is a 400 of its field."""

    def form(schema):
        return {"type": "json_schema", "json_schema": {"name": "sign", "schema": schema}}

    properties = {"text": {"type": "string", "maxLength": 9}, "red": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    for fields in ({}, {"reasoning_effort": "low"}, {"stream": True}):
        answer = create(
            client, bundle, question, response_format=form(schema), max_tokens=60, **fields
        )
        if "stream" in fields:
            content = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        else:
            content = answer.choices[0].message.content
        jsonschema.validate(json.loads(content), schema)
    free = create(client, bundle, question, response_format={"type": "json_object"})
    assert isinstance(json.loads(free.choices[0].message.content), dict)
    for wrong, words in (({"pattern": "a"}, "has 'pattern'"), ({"minLength": 99}, "room for 6")):
        with pytest.raises(openai.BadRequestError, match=words) as caught:
            create(client, bundle, question, response_format=form(wrong))
        assert caught.value.param == "response_format"


def test_the_official_client_streams_an_answer_about_a_picture(tmp_path):
    """The pocket model reads a sign, thinks, and goes on with the conversation."""
    assert export(["coreml", "--quant", "int4-fast", "--output", str(tmp_path), "--quiet"]) == 0
    (bundle,) = tmp_path.iterdir()
    url = f"data:image/png;base64,{base64.b64encode((PICTURES / 'sign.png').read_bytes()).decode()}"
    question = asked("What does the sign say?")
    question[0]["content"].insert(0, {"type": "image_url", "image_url": {"url": url}})
    own = Session.load(bundle)
    shown = {"type": "image", "image": url}
    told = [{"role": "user", "content": [shown, *question[0]["content"][1:]]}]
    expected = "".join(own.chat(told, GREEDY))
    with running_server(bundle) as server:
        client = openai.OpenAI(base_url=server.api, api_key="none")
        assert [model.id for model in client.models.list()] == [bundle.name]
        usage = {"include_usage": True}
        chunks = list(
            client.chat.completions.create(
                model=bundle.name,
                messages=question,
                stream=True,
                stream_options=usage,
                temperature=0,
            )
        )
        texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert "".join(filter(None, texts)) == expected == "MUSEUM"
        assert len(texts) > 4 and chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage.completion_tokens == 6
        assert chunks[-1].timings["vision_seconds"] > 0
        thought = create(client, bundle, question, reasoning_effort="low", max_tokens=100)
        message = thought.choices[0].message
        assert message.content == "MUSEUM"
        assert message.reasoning_content and "think" not in message.reasoning_content
        assert thought.usage.prompt_tokens_details.cached_tokens > 40
        assert thought.usage.completion_tokens_details.reasoning_tokens > 6
        check_formats(client, bundle, question)
        turns = [*question, message.model_dump(), *asked("What colour is it?")]
        again = create(client, bundle, turns)
        assert again.usage.prompt_tokens_details.cached_tokens > 40


def test_32_clients_at_once_each_get_the_session_s_own_answer(client, bundle, session):
    pictures = [gradient(100 + 20 * n, 100, n) for n in range(2)]
    questions = [(f"Question {n % 8}?", pictures[n % 8] if n % 8 < 2 else None) for n in range(32)]
    expected = {}
    for text, picture in questions[:8]:
        parts = (text,) if picture is None else (picture, text)
        expected[text] = "".join(session.chat([user(*parts)], SHORT))
    assert len(set(expected.values())) > 2

    def ask(number):
        text, picture = questions[number]
        send = streamed if number % 2 else (lambda *a: create(*a).choices[0].message.content)
        return [send(client, bundle, asked(text, picture)) == expected[text] for _ in range(2)]

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(ask, range(32)))
    assert found == [[True, True]] * 32


def test_whole_and_streamed_answers_are_equal_and_have_scores(client, bundle):
    wanted = {"logprobs": True, "top_logprobs": 2}
    whole = create(client, bundle, asked("Hello"), **wanted).choices[0]
    chunks = list(create(client, bundle, asked("Hello"), stream=True, **wanted))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    scores = [s for c in chunks if c.choices[0].logprobs for s in c.choices[0].logprobs.content]
    assert "".join(texts) == whole.message.content
    assert [s.token for s in scores] == [s.token for s in whole.logprobs.content]
    assert len(scores) == 6
    for one, other in zip(scores, whole.logprobs.content, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4), "a reused prompt rounds so"
    assert all(len(score.top_logprobs) == 2 for score in scores)


def test_a_seed_repeats_an_answer(client, bundle):
    drawn = [
        create(client, bundle, asked("Hi"), temperature=1, seed=seed).choices[0].message.content
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"n": 2}, "BadRequestError", "n is 2"),
        ({"extra_body": {"colour": 1}}, "BadRequestError", "no field 'colour'"),
        ({"temperature": -1}, "BadRequestError", "temperature is -1"),
        ({"seed": -1}, "BadRequestError", "seed is -1"),
        ({"max_tokens": 0}, "BadRequestError", "max_tokens is 0"),
        ({"messages": asked("word " * 600)}, "BadRequestError", "the prompt has"),
        ({"messages": asked("\ud800 half")}, "BadRequestError", "half a character"),
        ({"model": "other"}, "NotFoundError", "There is no model 'other'"),
        ({"tools": [{"type": "function"}]}, "BadRequestError", "tools is"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_mistakes_are_refused_in_openai_s_shape(client, bundle, fields, kind, words, stream):
    given = {"model": bundle.name, "messages": asked("Hi"), "temperature": 0, "max_tokens": 3}
    body = json.dumps(given | fields).encode()  # the client cannot send half a character
    if b"ud800" in body:
        status, text = post(client, body)
        assert status == 400 and words in json.loads(text)["error"]["message"]
        return
    with pytest.raises(getattr(openai, kind)) as caught:
        client.chat.completions.create(**(given | fields), stream=stream)
    assert words in caught.value.message and caught.value.type == "invalid_request_error"


def post(client, body, content_type="application/json", **headers):
    """(status, body) of a POST that no client library makes."""
    where = urlsplit(str(client.base_url))
    connection = http.client.HTTPConnection(where.netloc, timeout=30)
    head = {"Content-Type": content_type, **headers}
    connection.request("POST", "/v1/chat/completions", body, head)
    response = connection.getresponse()
    return response.status, response.read().decode()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"{}", {"content_type": "text/plain"}, 415),
        (b"{}", {"Host": "evil.example"}, 403),
        (b"{}", {"Content-Length": "99999999999"}, 413),
    ],
)
def test_bodies_that_are_none_are_refused(client, body, headers, status):
    got, text = post(client, body, **headers)
    assert got == status and json.loads(text)["error"]["message"].endswith(".")


def test_other_routes_are_told_in_the_same_shape(server):
    routes = (("nothing", 404), ("chat/completions", 405), ("models/x", 404))
    for path, status in routes:
        got, _, body = get(f"{server.api}/{path}")
        assert got == status and json.loads(body)["error"]["type"] == "invalid_request_error"
    assert json.loads(get(f"{server.root}/health")[2]) == {"status": "ok"}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_whose_client_left_is_not_computed(server, client, bundle, stream):
    before = metric(server, "cancelled_total")
    body = {"model": bundle.name, "messages": asked("Go on."), "temperature": 0, "stream": stream}
    address = urlsplit(server.root)
    with socket.create_connection((address.hostname, address.port)) as leaving:
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        leaving.sendall(head.encode() + data)
        eventually(lambda: metric(server, "requests_running") == 1)
    eventually(lambda: metric(server, "cancelled_total") == before + 1)
    eventually(lambda: metric(server, "requests_running") == 0)
    assert create(client, bundle, asked("Hi")).choices[0].finish_reason == "length"


@pytest.fixture
def guarded(bundle, tmp_path):
    """A server with two keys, a short queue, and a folder of files; TMPDIR is a folder of its
    own."""
    keys, files, scratch = tmp_path / "keys", tmp_path / "files", tmp_path / "scratch"
    keys.write_text("\n".join(KEYS))
    files.mkdir()
    scratch.mkdir()
    gradient(60, 40).save(files / "photo.png")
    options = ("--api-key-file", keys, "--files", files, "--max-waiting", "6")
    with running_server(bundle, *options, "--precision", "fp32", TMPDIR=str(scratch)) as running:
        running.scratch = scratch
        yield running


def test_keys_files_turns_and_a_full_queue(guarded, bundle, session):
    assert [get(f"{guarded.api}/models", key)[0] for key in (None, "x" * 20, KEYS[1])] == [
        *(401, 401, 200)
    ]
    first, second = (
        openai.OpenAI(base_url=guarded.api, api_key=key, max_retries=0) for key in KEYS
    )
    named = [{"type": "image_url", "image_url": {"url": "photo.png"}}]
    answer = create(first, bundle, [{"role": "user", "content": named}])
    told = [{"role": "user", "content": [{"type": "image", "image": gradient(60, 40)}]}]
    assert answer.choices[0].message.content == "".join(session.chat(told, SHORT))

    finished, statuses = [], []

    def ask(client, name):
        try:
            create(client, bundle, asked("Go on."), max_tokens=60)
            finished.append(name)
        except openai.RateLimitError as error:
            statuses.append((name, int(error.response.headers["Retry-After"]) > 0))

    flood = [threading.Thread(target=ask, args=(first, "flood")) for _ in range(9)]
    for thread in flood:
        thread.start()
    eventually(lambda: len(statuses) >= 2)
    ask(second, "other")
    at_other = len(finished)
    for thread in flood:
        thread.join(60)
    assert finished.count("other") == 1
    assert len(finished) - at_other >= 3, "it did not wait for those that came before it"
    assert {name for name, _ in statuses} == {"flood"} and all(good for _, good in statuses)


def test_sigterm_lets_an_answer_end_and_leaves_nothing(guarded, bundle):
    clients = [openai.OpenAI(base_url=guarded.api, api_key=key, max_retries=0) for key in KEYS]
    chunks = iter(create(clients[0], bundle, asked("Go on."), stream=True, max_tokens=200))
    next(chunks)
    refused = []

    def wait():
        try:
            create(clients[1], bundle, asked("And then?"))
        except openai.InternalServerError as error:
            refused.append(error.status_code)

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: metric(guarded, "requests_waiting", KEYS[0]) == 1)
    guarded.process.send_signal(signal.SIGTERM)
    assert list(chunks)[-1].choices[0].finish_reason == "length"
    assert guarded.process.wait(30) == 0
    waiting.join(30)
    assert refused == [503]
    assert guarded.process.stderr.read().count("\n") <= 2
    assert list(guarded.scratch.iterdir()) == []
    address = urlsplit(guarded.root)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port))


def test_ctrl_c_ends_it_with_130(bundle):
    with running_server(bundle) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 130
        assert "Traceback" not in server.process.stderr.read()


def test_another_host_needs_a_key_which_is_made_and_printed(bundle):
    with running_server(bundle, "--host", "0.0.0.0") as server:
        root = server.root.replace("0.0.0.0", "127.0.0.1")
        assert len(server.key) > 40
        assert [get(f"{root}/v1/models", key)[0] for key in (None, server.key)] == [401, 200]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "99999"], "port 99999"),
        (["--files", "no/such"], "is no folder"),
        (["--api-key-file", "no/such"], "cannot be read"),
        (["--max-waiting", "0"], "--max-waiting is 0"),
        (["--host", "no such host.invalid"], "leads nowhere"),
    ],
)
def test_mistakes_of_the_command_are_told_before_a_bundle_is_opened(options, words, capsys):
    assert main(["serve", "no/such/bundle", *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
