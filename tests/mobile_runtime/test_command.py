"""Exit codes and output of the command lines, in processes of their own."""

import io
import os
import pty
import subprocess
import sys

import pytest
from rich.table import Table

from mobile_runtime.command import Terminal, printable, run_command
from mobile_runtime.errors import InputError

HEAD = "from mobile_runtime.command import run_command\n"


def run(body, **options):
    code = f"{HEAD}def run():\n    {body}\n    return 0\nraise SystemExit(run_command(run))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, **options)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp932"])
def test_letters_that_an_encoding_lacks_become_question_marks(encoding):
    done = run(
        "print('caf\u00e9 \u535a\u7269 \U0001f600 end')",
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0 and not done.stderr
    printed = done.stdout.decode(encoding)
    assert printed.strip().endswith("end") and "?" in printed


def test_a_name_that_is_no_text_is_printed():
    done = run("print(b'photo\\xff.jpg'.decode('utf-8', 'surrogateescape'))")
    assert done.returncode == 0 and done.stdout.strip() == b"photo?.jpg"


@pytest.mark.parametrize("count", [1, 100_000])
def test_a_closed_pipe_ends_in_silence(count):
    reader, writer = os.pipe()
    os.close(reader)
    code = f"{HEAD}raise SystemExit(run_command(lambda: print('x' * {count}) or 0))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("that is wrong; do this."), 2, "error: that is wrong; do this.\n"),
        (FileNotFoundError("gone"), 2, "error: gone\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
    ],
)
def test_errors_have_their_codes(error, code, said, capsys):
    def fail():
        raise error

    assert run_command(fail) == code
    assert capsys.readouterr().err == said


def test_a_dialogue_without_an_input_ends(make_bundle):
    """As a shell starts it with `<&-`."""
    command = [sys.executable, "-m", "mobile_runtime", "chat", str(make_bundle("none"))]
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *command], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_too_little_memory_is_one_sentence(capsys):
    def run():
        raise MemoryError("Unable to allocate 3. TiB")

    assert run_command(run) == 2
    assert capsys.readouterr().err.startswith("error: there is not enough memory for this (Unable")


# ISO 6429: ESC, BEL, CSI and OSC as one character; and what turns text around.
STEERING = {
    "\x1b[2J": "\\x1b[2J",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "\x9b31m": "\\x9b31m",
    "\x9d52;c;YQ==\x9c": "\\x9d52;c;YQ==\\x9c",
    "a\rb\bc\x7f\0": "a\\rb\\x08c\\x7f\\x00",
    "photo\u202egpj.exe": "photo\\u202egpj.exe",
}


@pytest.mark.parametrize("text", STEERING)
def test_what_steers_a_terminal_is_escaped(text, capsys):
    def fail():
        raise InputError(f"{text} is wrong; do this.")

    assert printable(text) == STEERING[text]
    assert run_command(fail) == 2
    assert capsys.readouterr().err == f"error: {STEERING[text]} is wrong; do this.\n"


@pytest.mark.parametrize(
    "text",
    [
        "a\tb\nc",
        "\u535a\u7269\u3000\u9928",
        "\U0001f469\u200d\U0001f467",
        "\u0645\u06cc\u200c\u06a9",
    ],
)
def test_text_of_any_script_stays(text):
    assert printable(text) == text


def test_a_table_obeys_no_name():
    file = io.StringIO()
    table = Table("part")
    table.add_row("[/red]\x1b[2Jname")
    console = Terminal(file=file, force_terminal=True, width=60)
    console.print(table)
    console.print("[bold]\x9b2J")
    assert "[/red]\\x1b[2Jname" in file.getvalue() and "\x1b[2J" not in file.getvalue()
    assert file.getvalue().endswith("[bold]\\x9b2J\n")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_an_answer_steers_no_terminal_and_goes_into_a_file_as_it_is(make_bundle, is_terminal):
    code = """
import sys
from mobile_runtime import cli, session
session.StreamDecoder.push = lambda self, token: "\\x1b[2J\\u9928"
raise SystemExit(cli.main(["chat", sys.argv[1], "Hi", "--max-new-tokens", "1"]))
"""
    reader, writer = pty.openpty() if is_terminal else os.pipe()
    command = [sys.executable, "-c", code, str(make_bundle("none"))]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, stdout=writer, env=environment, check=False)
    os.close(writer)
    printed = os.read(reader, 1000)
    os.close(reader)
    wanted = "\\x1b[2J\u9928" if is_terminal else "\x1b[2J\u9928"
    # The answer's own line: where colorama is installed, numba lets it reset colours at the end.
    assert (done.returncode, printed.decode().splitlines()[0]) == (0, wanted)
