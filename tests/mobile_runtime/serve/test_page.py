"""The page of `demo`: it needs no other machine, its own module asks the server, its frames are
those that a question reads."""

import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from mobile_runtime.cli import main
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.session import ChatOptions, Session
from tests.mobile_runtime.serve.server_process import running_server
from tests.mobile_runtime.serve.test_server import asked, get
from tests.mobile_runtime.turns import gradient, user
from tests.paths import ROOT

pytest.importorskip("uvicorn", reason="needs the extra serve")
av = pytest.importorskip("av", reason="needs the extra video")
FOLDER = ROOT / "mobile_runtime/serve/static"
FILES = ("", "style.css", "main.js", "api.js", "media.js")
KEY = "the-key-of-a-test"


@pytest.fixture(scope="module")
def bundle(make_bundle):
    return make_bundle("none", "state", 512)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Two seconds of video, which gets brighter from black to white."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in np.linspace(0, 255, 20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    options = ("--api-key-file", keys, "--precision", "fp32")
    with running_server(bundle, *options, command="demo") as running:
        yield running


def test_its_files_need_no_key_and_no_other_machine(server):
    for name in FILES:
        status, headers, body = get(f"{server.root}/{name}")
        assert status == 200 and body
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert re.findall(r"""["'(]\s*(?:https?:)?//""", body) == [], name
    assert {path.name for path in FOLDER.iterdir()} == {*FILES[1:], "index.html"}
    assert get(f"{server.root}/v1/models")[0] == 401


def test_every_element_that_the_script_looks_for_is_there():
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    script = "".join(
        (FOLDER / name).read_text(encoding="utf-8") for name in ("main.js", "media.js")
    )
    wanted = set(re.findall(r"(?:\$|getElementById)\(\"([\w-]+)\"\)", script))
    wanted |= set(re.findall(r"\"(\w+)\"", re.search(r"NUMBERS = \[(.*?)\]", script)[1]))
    ids = re.findall(r'\bid="([\w-]+)"', page)
    assert len(wanted) > 15 and wanted <= set(ids)
    assert len(ids) == len(set(ids))


def test_every_field_of_the_page_has_a_label():
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    labelled = set(re.findall(r'<label[^>]* for="([\w-]+)"', page))
    inside = re.findall(r'<label[^>]*>[^<]*<input[^>]* id="([\w-]+)"', page)
    fields = re.findall(r'<(?:input|textarea)[^>]* id="([\w-]+)"', page)
    assert len(fields) > 8 and set(fields) <= labelled | set(inside)


def test_frames_that_are_shown_are_those_that_a_question_reads(bundle, film):
    pytest.importorskip("starlette", reason="needs the extra serve")
    from mobile_runtime.serve.page import frames_of

    session = Session.load(bundle, EngineOptions(precision="fp32"))
    for most, count in ((0, 10), (4, 4)):
        found = frames_of(film.read_bytes(), session.manifest, most)
        assert len(found["frames"]) == count
        part = {"type": "video", "video": str(film), **found["settings"]}
        stream = session.chat([{"role": "user", "content": [part]}], ChatOptions(max_new_tokens=1))
        list(stream)
        assert stream.statistics.video_frames == count
        levels = [level(frame["image"]) for frame in found["frames"]]
        expected = [frame["seconds"] * 10 / 19 * 255 for frame in found["frames"]]
        np.testing.assert_allclose(levels, expected, atol=8)
    with pytest.raises(InputError, match=r"^the video ") as caught:
        frames_of(b"no video", session.manifest)
    assert "tmp" not in str(caught.value)


def test_a_video_in_a_data_url_is_answered_as_its_file(server, bundle, film):
    openai = pytest.importorskip("openai", reason="needs the official client")
    client = openai.OpenAI(base_url=server.api, api_key=KEY)
    url = f"data:video/mp4;base64,{base64.b64encode(film.read_bytes()).decode()}"
    part = {"type": "video_url", "video_url": {"url": url}, "fps": 2, "packing": 2}
    answer = client.chat.completions.create(
        model=bundle.name,
        messages=[{"role": "user", "content": [part]}],
        temperature=0,
        max_tokens=6,
    )
    session = Session.load(bundle, EngineOptions(precision="fp32"))
    told = {"type": "video", "video": str(film), "fps": 2, "packing": 2}
    options = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=6)
    expected = "".join(session.chat([{"role": "user", "content": [told]}], options))
    assert answer.choices[0].message.content == expected
    assert answer.timings["video_frames"] == 4


def level(url):
    data = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("L")).mean()


def test_its_module_asks_the_server(server, bundle, film):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    picture = gradient(80, 60)
    (question,) = asked("What is it?", picture)
    done = subprocess.run(
        [
            *(node, ROOT / "tests/mobile_runtime/serve/page_api.mjs", FOLDER / "api.js"),
            *(f"{server.root}/#key={KEY}", film, json.dumps(question)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    session = Session.load(bundle, EngineOptions(precision="fp32"))
    options = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=6)
    expected = "".join(session.chat([user(picture, "What is it?")], options))
    assert got["said"] == {"content": expected, "reasoning_content": ""}
    assert (got["model"], len(got["frames"])) == (bundle.name, 4)
    assert got["settings"]["max_frames"] == 4
    assert got["end"]["reason"] == "length" and got["end"]["usage"]["completion_tokens"] == 6
    assert got["refused"].startswith("n is 2")


def test_two_bundles_are_two_models(bundle, make_bundle):
    other = make_bundle("int8", "state", 512)
    with running_server([bundle, other], command="demo") as server:
        models = json.loads(get(f"{server.root}/v1/models")[2])["data"]
    assert [model["id"] for model in models] == [bundle.name, other.name]


def test_three_bundles_or_two_of_one_name_are_refused(bundle, capsys):
    assert main(["demo", "a", "b", "c"]) == 2
    assert "3 bundles are given" in capsys.readouterr().err
    assert main(["demo", str(bundle), str(bundle), "--port", "0"]) == 2
    assert "give two with different names" in capsys.readouterr().err
