"""What the runtime's tests share: published constants, the golden pictures, two tokenizers."""

import json
import shutil

import pytest

from export.host.chat_template import COMPACT
from export.host.tokenizer import build_tokenizer_files
from export.releases import DEFAULT_RELEASE
from mobile_runtime.bundle import Preprocessing
from mobile_runtime.chat.tokenizer import Tokenizer
from tests.golden.synthetic import golden_picture
from tests.paths import GOLDEN, UPSTREAM


@pytest.fixture(scope="session")
def golden():
    """Read a JSON file of tests/golden."""
    return lambda name: json.loads((GOLDEN / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def preprocessing():
    """The constants of the published preprocessor_config.json."""
    half = (0.5, 0.5, 0.5)
    return Preprocessing(448, 14, 9, True, True, half, half, 64, 70, 1088)


@pytest.fixture(scope="session")
def picture():
    """The function that draws a golden picture (width, height, k)."""
    return golden_picture


def _load(checkpoint, out, vocab_size):
    prompt = build_tokenizer_files(checkpoint, out, vocab_size, DEFAULT_RELEASE.chat)
    return Tokenizer.load(out / "tokenizer.json"), prompt


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """(Tokenizer, Prompt) of tests/golden/tiny_tokenizer."""
    checkpoint = tmp_path_factory.mktemp("tiny") / "checkpoint"
    shutil.copytree(GOLDEN / "tiny_tokenizer", checkpoint)
    (checkpoint / "chat_template.jinja").write_text(COMPACT, encoding="utf-8")
    return _load(checkpoint, checkpoint.parent / "out", 1000)


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """(Tokenizer, Prompt) of the published checkpoint."""
    if not (UPSTREAM / "vocab.json").is_file():
        pytest.skip("needs the published tokenizer in ../shared/upstream")
    return _load(UPSTREAM, tmp_path_factory.mktemp("published"), 151748)
