"""Every command explains itself, and those that need no heavy library run without it."""

import pytest

from tests.processes import run_python

HEAVY = (
    *("torch", "coremltools", "onnx", "onnxruntime", "numba", "safetensors", "ml_dtypes"),
    *("av", "huggingface_hub", "distributed", "transformers", "matplotlib"),
    *("starlette", "uvicorn"),
)
EXPORT_NEEDS = ("numba", "safetensors", "ml_dtypes")  # its extra
RUNTIME = ("chat", "serve", "demo", "info", "ort", "describe", "run")
VALIDATION = (
    *(
        "parity",
        "package",
        "answers",
        "quality",
        "trace",
        "cache-scales",
        "providers",
        "device-report",
        "lint",
        "diff",
        "plan",
    ),
)


def run(program, *arguments, absent=HEAVY):
    """A program in a process where `absent` libraries cannot be imported."""
    code = (
        "import sys\n"
        f"for name in {absent!r}: sys.modules[name] = None\n"
        f"from {program}.cli import main\n"
        f"sys.exit(main({list(arguments)!r}))"
    )
    return run_python("-c", code, timeout=60, COLUMNS="200")


@pytest.mark.parametrize(
    ("program", "command"),
    [
        *(("mobile_runtime", (command,)) for command in RUNTIME),
        *(("validation", (command,)) for command in VALIDATION),
        *((program, ()) for program in ("mobile_runtime", "validation")),
    ],
)
def test_help_needs_no_heavy_library(program, command):
    done = run(program, *command, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout and not done.stderr


@pytest.mark.parametrize("command", [(), ("coreml",), ("onnx",), ("onnx-portable",), ("upload",)])
def test_help_of_the_exporter_needs_no_target_and_no_torch(command):
    absent = tuple(name for name in HEAVY if name not in EXPORT_NEEDS)
    done = run("export", *command, "--help", absent=absent)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("program", "commands"), [("mobile_runtime", RUNTIME), ("validation", VALIDATION)]
)
def test_the_programs_help_says_what_each_command_does(program, commands):
    lines = run(program, "--help").stdout.splitlines()
    for command in commands:
        (number,) = (n for n, line in enumerate(lines) if line.split()[:1] == [command])
        described = " ".join(lines[number : number + 2])  # a long name has a line of its own
        assert len(described.split()) > 3, described


def test_the_kv_cache_help_of_a_target_explains_what_it_takes():
    for target, taken in (
        ("coreml", "state io"),
        ("onnx", "float32 int8"),
        ("onnx-portable", "float32"),
    ):
        text = " ".join(run("export", target, "--help", absent=()).stdout.split())
        explained = text.rpartition("--kv-cache {")[2].partition("--jobs")[0]
        words = set("state io float32 int8".split())
        assert {word for word in words if f"{word}:" in explained} == set(taken.split())


def test_a_device_report_needs_no_torch(tmp_path):
    (tmp_path / "device.json").write_text("{}")
    done = run("validation", "device-report", str(tmp_path / "device.json"))
    assert done.returncode == 2
    assert "device.json is no self-test report" in done.stderr


def test_a_command_that_needs_an_absent_library_says_what_to_install(tmp_path):
    done = run("validation", "answers", "--limit", "1")
    assert done.returncode == 2
    assert "is not installed; run pip install -e" in done.stderr
    assert len(done.stderr.splitlines()) == 1
