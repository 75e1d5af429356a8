"""The page about the server: its commands and programs run, and its fields are the code's."""

import re
import shutil

import pytest

from export.cli import main as export
from mobile_runtime.serve.chat_request import IGNORED, NEUTRAL, READ
from tests.docs.pages import blocks
from tests.mobile_runtime.serve.server_process import running_server
from tests.mobile_runtime.serve.test_server import get
from tests.paths import ROOT

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("openai", reason="needs the official client")
PAGE = ROOT / "docs/serve.md"
TEXT = PAGE.read_text(encoding="utf-8")


def commands(name):
    """The arguments of the page's commands `python -m mobile_runtime NAME`."""
    words = [words for block in blocks(PAGE) if block.is_shell for words in block.commands()]
    start = ["python", "-m", "mobile_runtime", name]
    return [line[4:] for line in words if line[:4] == start]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert export(["coreml", "--quant", "int4-fast", "--output", str(tmp_path), "--quiet"]) == 0
    (bundle,) = tmp_path.glob("minicpmv-*")
    shutil.copytree(bundle, tmp_path / "out" / bundle.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_programs_of_the_page_ask_the_server_that_it_starts(workspace, capsys):
    ((bundle, *options),) = commands("serve")
    programs = [block.body for block in blocks(PAGE) if block.language == "python"]
    assert programs
    with running_server(workspace / bundle, *options) as server:
        for body in programs:
            assert "http://127.0.0.1:8000" in body
            here = body.replace("http://127.0.0.1:8000", server.root)
            exec(compile(here, "a block of docs/serve.md", "exec"), {"__name__": "example"})
    answered = capsys.readouterr().out.splitlines()
    assert answered[0] == answered[2] == "MUSEUM"
    assert int(answered[3].split()[0]) > 40


def test_both_pages_open_that_the_page_starts(workspace):
    one, two = commands("demo")
    assert set(one) < set(two)
    first = workspace / one[0]
    second = shutil.copytree(first, workspace / two[1])
    for bundles in ([first], [first, second]):
        with running_server(bundles, command="demo") as server:
            assert "<textarea" in get(f"{server.root}/")[2]
            assert get(f"{server.api}/models")[2].count('"id"') == len(bundles)


def section(begin, end):
    return set(re.findall(r"`([a-z_]+)`", TEXT.partition(begin)[2].partition(end)[0]))


def test_the_page_has_every_field():
    table = TEXT.partition("| field | meaning |")[2].partition("\n\n")[0]
    firsts = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert {name for cell in firsts for name in re.findall(r"`(\w+)`", cell)} == set(READ)
    assert section("Ignored, since", "in messages") == set(IGNORED)
    assert section("Taken only", "Every other") == set(NEUTRAL)
