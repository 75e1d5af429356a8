"""Commands that the pages show: their options exist, and those that can run here do run.

A block is run on the pocket model unless the line before it says `<!-- not run: REASON -->`.
"""

import importlib
import re
import shutil
import tomllib

import pytest

from docs.parsers import PROGRAMS, parse
from export.cli import main as export
from tests.docs.pages import PAGES, blocks, inline_code, name_of, read_blocks
from tests.paths import ROOT

# An export imports it without torch, if it is the first; a page converts a module of PyTorch.
pytest.importorskip("coremltools")

# Why a block may not be run. A reason that no page gives is taken out.
REASONS = {
    "needs a Dask cluster",
    "needs an account of the hub",
    "needs an adapter",
    "needs VLMEvalKit",
    "needs lmms-eval",  # tests/validation/harnesses runs it, where it is
    "needs the harness",  # tests/validation/harnesses runs it
    "needs a Mac",
    "needs a video of yours",
    "needs the published checkpoint",
    "needs the server",
    "needs optimum",  # tests/export/backends/onnx runs it, where it is
    "needs transformers",  # tests/mobile_runtime/transformers_api runs it
    "serves until it is stopped",
    "sets up an environment",
    "takes minutes",
}
# Its blocks are about a bundle and a device of the reader's: their commands are only parsed.
ONLY_PARSED = "ios_bridge/README.md"
RUN = [page for page in PAGES if any(not b.reason for b in blocks(page) if b.is_shell)]
RUN = [page for page in RUN if name_of(page) != ONLY_PARSED]
BUNDLES = {
    f"out/minicpmv-pocket-{target}-{quant}": (target, quant)
    for target, quant in (("coreml", "int4"), ("coreml", "int4-fast"), ("onnx", "int4"))
}
SCRIPTS = {script: program for program, script in PROGRAMS.items()}
ELSEWHERE = {"pytest", "http.server"}  # modules of others
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


def check_command(words):
    """Fails if a command line names an option, a module, a file or a target that is not there."""
    match words:
        case ["python", "-m", module, *arguments] if module not in ELSEWHERE:
            parse(module, arguments)
        case ["python", "-m", _, *_] | [".", ".venv/bin/activate"] | ["swift", *_]:
            pass
        case ["python", file, *_]:
            assert (ROOT / file).is_file()
        case [script, *arguments] if script in SCRIPTS:
            parse(SCRIPTS[script], arguments)
        case [".build/environments/lmms-eval/bin/lmms-eval", *_]:
            pass
        case ["hf", "auth", "login"]:  # of the hub's own client
            pass
        case ["make", *targets]:
            assert {t for t in targets if "=" not in t} <= set(TARGETS)
        case ["pip", "install", "-e", "."]:
            pass
        case ["pip", "install", "-e", given]:
            named = re.fullmatch(r"\.\[([\w,-]+)\]", given)
            assert named and set(named[1].split(",")) <= set(EXTRAS)
        case _:
            raise AssertionError(f"nothing is known of {words}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_parses(page, capsys):
    wrong = []
    for block in blocks(page):
        for words in block.commands() if block.is_shell else ():
            try:
                check_command(words)
            except (SystemExit, AssertionError) as error:
                wrong.append((words, str(error), capsys.readouterr().err[-300:]))
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "python -m export coreml --no-such-option",
        "python -m export tflite",
        "python -m mobile_runtime chat BUNDLE --think Hello",
        "python -m validation parity",
        "python -m benchmarks.layer --fast",
        "python no/such/file.py",
        "make nothing",
        "pip install -e '.[nothing]'",
        "pip install minicpmv-mobile",
        "minicpmv-run sing BUNDLE",
        "curl https://example.org",
    ],
)
def test_a_wrong_command_line_is_found(line, capsys):
    (block,) = read_blocks(f"```bash\n{line}\n```\n", "page")
    (words,) = block.commands()
    with pytest.raises((SystemExit, AssertionError, ModuleNotFoundError)):
        check_command(words)


def test_indented_blocks_continuations_and_comments_are_read():
    marked = "<!-- not run: takes minutes -->\n```bash\nmake c\n```\n"
    text = f"Text\n\n    make a \\\n      b=1  # why\n\n{marked}"
    fenced, indented = read_blocks(text, "page")
    assert (fenced.commands(), fenced.reason) == ([["make", "c"]], "takes minutes")
    assert (indented.commands(), indented.reason) == ([["make", "a", "b=1"]], None)


def test_every_reason_is_one_of_the_list_and_every_one_is_given():
    given = {block.reason for page in PAGES for block in blocks(page) if block.reason}
    assert given == REASONS


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_mark_stands_right_before_its_block(page):
    text = re.sub(r"`[^`\n]+`", "", page.read_text(encoding="utf-8"))
    marked = [block for block in blocks(page) if block.reason or block.file]
    assert len(re.findall("<!-- (?:not run|file):", text)) == len(marked)


def test_options_in_the_text_are_options_of_some_command():
    reference = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    known = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", reference)) | {"--check"}
    for page in PAGES:
        if page.parent.name in ("reference", "ios_bridge"):
            continue
        text = " ".join(inline_code(page))
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) <= known, page


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """exported(bundle) -> the pocket model's bundle of that name in `BUNDLES`, made once."""
    made = {}

    def get(bundle):
        if bundle not in made:
            target, quant = BUNDLES[bundle]
            made[bundle] = tmp_path_factory.mktemp("pocket")
            output = str(made[bundle] / "out")
            assert export([target, "--quant", quant, "--output", output, "--quiet"]) == 0
        return made[bundle] / bundle

    return get


@pytest.fixture
def workspace(tmp_path, monkeypatch, exported):
    """workspace(page) -> a folder in which its commands find what they name."""

    def make(page):
        for name in ("README.md", "examples"):
            (tmp_path / name).symlink_to(ROOT / name)
        text = page.read_text(encoding="utf-8")
        for bundle in BUNDLES:
            if re.search(rf"{bundle}(?!-)", text):
                shutil.copytree(exported(bundle), tmp_path / bundle)
        for block in blocks(page):
            if block.file:
                (tmp_path / block.file).parent.mkdir(exist_ok=True)
                (tmp_path / block.file).write_text(block.body, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)  # as for a script that lies there
        return tmp_path

    return make


def run(words):
    """Run a command line in this process. An export may replace a bundle of an earlier block."""
    match words:
        case ["python", "-m", program, *arguments] if program in PROGRAMS:
            again = ["--overwrite"] if program == "export" else []
            assert importlib.import_module(f"{program}.cli").main([*arguments, *again]) == 0, words
        case [".", ".venv/bin/activate"]:
            pass
        case _:
            raise AssertionError(f"{words} cannot be run here; say why: <!-- not run: REASON -->")


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_commands_and_programs_of_a_page_run_on_the_pocket_model(page, workspace, capsys):
    workspace(page)
    for block in blocks(page):
        if block.reason is None and block.is_shell:
            for words in block.commands():
                run(words)
        elif block.reason is None and block.language == "python":
            exec(compile(block.body, f"{block.page}, a block", "exec"), {"__name__": "example"})


def test_the_demo_answers_what_the_readme_says(workspace, capsys):
    workspace(ROOT / "README.md")
    capsys.readouterr()
    picture = ["--image", "examples/pictures/sign.png"]
    question = "What does the sign say?"
    run(
        [
            "python",
            "-m",
            "mobile_runtime",
            "chat",
            "out/minicpmv-pocket-coreml-int4-fast",
            *picture,
            question,
        ]
    )
    answer = capsys.readouterr().out.strip()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"asks it what a sign says: {answer}\n" in text
