"""The Swift package's Unicode tables are those of the installed `tokenizers` library."""

import importlib.util

import pytest

from tests.paths import ROOT

SCRIPT = ROOT / "ios_bridge/unicode_tables.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("unicode_tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", ["CharacterData.swift", "NormalizationData.swift"])
def test_tables_are_what_the_script_writes(file, script):
    assert (script.FOLDER / file).read_text(encoding="utf-8") == script.SOURCES[file]()
