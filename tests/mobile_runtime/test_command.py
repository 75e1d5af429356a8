"""Exit codes and output of the command lines, in processes of their own."""

import os
import subprocess
import sys

import pytest

from mobile_runtime.command import run_command
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
