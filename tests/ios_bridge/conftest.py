"""What the tests of the Swift package share: its command, built once, and tokenizers on disk."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from export.host.tokenizer import build_tokenizer_files
from export.releases import DEFAULT_RELEASE
from tests.mobile_runtime.conftest import picture, preprocessing, published  # noqa: F401
from tests.paths import ROOT
from tests.tampered_bundles import tamper, write_bundle

TOOLCHAIN = ROOT / "ios_bridge/toolchain.sh"


def _toolchain(*arguments, **options):
    return subprocess.run([TOOLCHAIN, *arguments], cwd=ROOT, capture_output=True, **options)


@pytest.fixture(scope="session")
def minicpmv():
    """Run a subcommand of `minicpmv` on bytes; gives its standard output, and the completed process
    when `check` is false."""
    found = _toolchain("check", text=True)
    if found.returncode:
        pytest.skip(found.stderr.strip())
    build = ("run", "swift", "build", *_toolchain("flags", text=True).stdout.split())
    built = _toolchain(*build, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    where = _toolchain(*build, "--show-bin-path", text=True)
    program = Path(where.stdout.strip()) / "minicpmv"

    def run(*arguments, given=b"", check=True):
        done = _toolchain("run", program, *arguments, input=given, timeout=600)
        if not check:
            return done
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run


@pytest.fixture(scope="session")
def minicpmv_json(minicpmv):
    """Run a subcommand on JSON values, one a line; gives the values of its output's lines."""

    def run(*arguments, values=()):
        given = "".join(json.dumps(value) + "\n" for value in values)
        return [
            json.loads(line) for line in minicpmv(*arguments, given=given.encode()).splitlines()
        ]

    return run


@pytest.fixture(scope="session")
def pocket_tokenizer():
    """tokenizer.json of the model that comes with the repository."""
    return ROOT / "export/pocket/tokenizer.json"


@pytest.fixture(scope="session")
def published_tokenizer(tmp_path_factory):
    """tokenizer.json of the published checkpoint."""
    upstream = ROOT / "../shared/upstream"
    if not (upstream / "vocab.json").is_file():
        pytest.skip("needs the published tokenizer in ../shared/upstream")
    out = tmp_path_factory.mktemp("published")
    build_tokenizer_files(upstream, out, 151748, DEFAULT_RELEASE.chat)
    return out / "tokenizer.json"


@pytest.fixture(scope="session")
def make_prompt_bundle(tmp_path_factory):
    """Make a bundle without packages that holds a tokenizer and its prompt format."""

    def make(tokenizer_json, prompt, constants):
        folder = write_bundle(tmp_path_factory.mktemp("prompts") / "bundle")
        shutil.copyfile(tokenizer_json, folder / "tokenizer/tokenizer.json")
        for name, part in (("prompt", prompt), ("preprocessing", constants)):
            tamper(folder, {"set": [[name], dataclasses.asdict(part)]})
        return folder

    return make
