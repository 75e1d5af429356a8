"""Finished parts are thrown away when the code that made them changes, and only then."""

import shutil

import pytest

from export.build.code_digest import ROOT, code_digest


@pytest.fixture
def copy(tmp_path):
    """copy(path, old, new) -> digest of the packages with that change."""
    for package in ("export", "mobile_runtime"):
        ignored = shutil.ignore_patterns("__pycache__", "pocket")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)

    def change(path, old, new):
        text = (tmp_path / path).read_text(encoding="utf-8")
        assert old in text
        (tmp_path / path).write_text(text.replace(old, new), encoding="utf-8")
        return code_digest(tmp_path)

    return change


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("export/host/card.py", "## Use", "## Usage"),
        ("export/host/card_sections.py", "shaped for the Neural Engine", "shaped for it"),
        ("export/build/progress.py", "taken from the cache", "reused"),
        ("export/cli.py", "processes", "workers"),
        ("export/quant/kmeans.py", "Palettization:", "To palettize:"),  # a docstring
        ("export/quant/checks.py", "FLOAT16_MAX = 65504.0", "FLOAT16_MAX = 65504.0  # half"),
    ],
)
def test_texts_comments_and_docstrings_keep_finished_parts(copy, path, old, new):
    assert copy(path, old, new) == code_digest()


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("export/quant/checks.py", "FLOAT16_MAX = 65504.0", "FLOAT16_MAX = 65503.0"),
        ("export/graphs/static/lm_head.py", "_ALIGNMENT = 32", "_ALIGNMENT = 64"),
        ("export/backends/onnx/layout.py", "_BLOCK_ROWS = 16_384", "_BLOCK_ROWS = 8_192"),
        ("export/host/tables.py", "_EMBEDDING_BLOCK = 8192", "_EMBEDDING_BLOCK = 4096"),
        ("mobile_runtime/model/positions.py", "WAVE_BASE = 10000.0", "WAVE_BASE = 1000.0"),
    ],
)
def test_other_code_makes_other_parts(copy, path, old, new):
    assert copy(path, old, new) != code_digest()
