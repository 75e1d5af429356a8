"""Checkpoints by hub id: the real client against a hub on loopback."""

from pathlib import Path

import pytest

from tests.export.checkpoint.hub_server import Hub, running
from tests.processes import run_python

REPOSITORY = "openbmb/MiniCPM-V-4_5"
WEIGHTS = "model.safetensors"
# What a repository holds besides: code, pickles, pictures, other formats.
OTHERS = ("modeling_minicpmv.py", "pytorch_model.bin", "assets/a.png", "README.md", "x.gguf")
LOCATE = """
from export.checkpoint.locate import locate_checkpoint
from mobile_runtime.command import run_command
raise SystemExit(run_command(lambda: print(locate_checkpoint("openbmb/MiniCPM-V-4_5")) or 0))
"""


@pytest.fixture
def hub(random_checkpoint):
    files = {path.name: path.read_bytes() for path in random_checkpoint.iterdir()}
    with running(Hub(REPOSITORY, files | dict.fromkeys(OTHERS, b"nothing to read"))) as found:
        yield found


@pytest.fixture
def python(hub, tmp_path):
    """Run Python in a process that knows this hub and a cache of its own."""

    def run(*arguments, **variables):
        home = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.endpoint}
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        place = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        return run_python(*arguments, **(home | quiet | place | variables))

    return run


def sentence(done):
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def test_an_export_fetches_only_what_it_needs(hub, python, tmp_path):
    options = ["-m", "export", "onnx", "--checkpoint", REPOSITORY, "--quant", "none", "--jobs", "1"]
    options += ["--output", str(tmp_path / "out"), "--context-length", "256"]
    assert python(*options, "--plan").returncode == 0
    assert WEIGHTS not in hub.fetched()
    done = python(*options)
    assert done.returncode == 0, done.stderr
    assert WEIGHTS in hub.fetched() and not hub.fetched() & set(OTHERS)
    assert list((tmp_path / "out").glob("*/manifest.json"))


def test_what_was_fetched_works_offline(hub, python):
    assert "could not be downloaded from the hub" in sentence(
        python("-c", LOCATE, HF_HUB_OFFLINE="1")
    )
    found = python("-c", LOCATE)
    assert found.returncode == 0, found.stderr
    assert (Path(found.stdout.strip()) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    hub.log.clear()
    for variables in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        assert python("-c", LOCATE, **variables).stdout == found.stdout
    assert not hub.log


def test_a_broken_transfer_goes_on_where_it_stopped(hub, python):
    """The client keeps what it has in pieces of 10 MiB."""
    hub.files[WEIGHTS], hub.cut = bytes(range(256)) * 96 * 1024, {WEIGHTS}
    found = python("-c", LOCATE)
    assert found.returncode == 0, found.stderr
    begins = [given for method, name, given in hub.log if (method, name) == ("GET", WEIGHTS)]
    assert begins[0] is None and begins[1:] == [f"bytes={10 << 20}-"]
    assert (Path(found.stdout.strip()) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_other_bytes_than_the_hub_names_are_refused_and_fetched_again(name, hub, python):
    hub.spoilt = {name}
    assert f"{name} is not what the hub says it is" in sentence(python("-c", LOCATE))
    hub.spoilt = set()
    assert python("-c", LOCATE).returncode == 0
