"""The benchmark of the whole ONNX model, on the pocket model: memory and seconds of each way."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.onnx_full import WAYS
from benchmarks.readme import onnx_full_table
from export.checkpoint.locate import DEFAULT_CHECKPOINT

pytest.importorskip("onnxruntime")


def test_every_way_runs_in_a_process_of_its_own_and_writes_the_same_tokens(tmp_path):
    shutil.copytree(DEFAULT_CHECKPOINT, tmp_path / "disk/checkpoint")
    command = [sys.executable, "-m", "benchmarks.onnx_full", str(tmp_path / "disk/checkpoint")]
    command += ["--jobs", "1", "--json", str(tmp_path / "report.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in Path(tmp_path / "disk").iterdir()] == ["checkpoint"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["prepacked_bytes"] > report["export"]["bundle_bytes"] / 10
    for way in WAYS:
        assert report[way]["load"] > 0 and report[way]["usage"]["own"] > 0
    rows = onnx_full_table(report).splitlines()
    assert [row.count("|") for row in rows] == [7] * 6
