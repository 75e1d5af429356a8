"""The pocket model's card tells what was measured."""

import shutil

from examples.pocket.card import main
from export.checkpoint.locate import DEFAULT_CHECKPOINT
from tests.paths import ROOT

RESULTS = ROOT / "benchmarks/results"


def test_the_shipped_card_is_what_the_measurements_say(tmp_path):
    shutil.copy(DEFAULT_CHECKPOINT / "training.json", tmp_path)
    assert main(["--checkpoint", str(tmp_path), "--results", str(RESULTS)]) == 0
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert written == (DEFAULT_CHECKPOINT / "README.md").read_text(encoding="utf-8")


def test_a_missing_measurement_is_one_sentence(tmp_path, capsys):
    shutil.copy(DEFAULT_CHECKPOINT / "training.json", tmp_path)
    assert main(["--checkpoint", str(tmp_path), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "answers-all.json; `make figures`" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "README.md").exists()
