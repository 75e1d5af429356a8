"""A kind of checkpoint, and a method with statistics, registered from outside the packages:
finished weights are written as they are, and statistics reach the method."""

import json
import shutil

import numpy as np
import pytest

from export.checkpoint import SOURCES, open_source
from export.cli import main as export_main
from export.quant.kmeans import palettize
from export.quant.methods import METHODS, Method
from mobile_runtime.bundle import read_manifest
from mobile_runtime.engines import EngineOptions
from tests.seams.finished_source import KIND, METHOD, FinishedSource, finished
from validation.chats import default_chats
from validation.parity.parity import ParityOptions, run_parity
from validation.sources import bundle_plan, open_checkpoint

CONTEXT = 320
GATE, DOWN = (f"llm.model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "down"))
QUERY, HEAD = "llm.model.layers.1.self_attn.q_proj.weight", "llm.lm_head.weight"
FORMS = {GATE: "lut", DOWN: "blocks", QUERY: "rows", HEAD: "lut"}


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, METHOD, KIND)
        yield


@pytest.fixture(scope="module")
def folder(random_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "checkpoint"
    shutil.copytree(random_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": METHOD, "forms": FORMS}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def export(folder, output, *flags, code=0):
    arguments = ["--checkpoint", str(folder), "--context-length", str(CONTEXT), "--quiet"]
    assert export_main([*flags, *arguments, "--output", str(output)]) == code
    return next(output.iterdir(), None) if output.exists() else None


def parity(bundle, source):
    options = ParityOptions(EngineOptions(precision="fp32"), new_tokens=4)
    report = run_parity(bundle, source, default_chats(), options)
    assert {stage.status for stage in report.stages} == {"passed"}
    return {stage.stage: stage for stage in report.stages}


@pytest.mark.parametrize(
    ("backend", "kept"),
    [("coreml", {GATE, QUERY, "llm.lm_head.00.weight"}), ("onnx", {DOWN, QUERY})],
)
def test_a_finished_weight_is_written_as_it_is_where_the_target_takes_its_form(
    folder, tmp_path, backend, kept
):
    """All others are stored as the recipe says, from the values that the finished ones stand for;
    everything that the bundle computes equals PyTorch with those values."""
    source = open_checkpoint(str(folder))
    bundle = export(folder, tmp_path, backend, "--quant", "none")
    stages = parity(bundle, source)
    assert stages["end_to_end"].checkpoint_db > 70
    plan = bundle_plan(read_manifest(bundle), source)
    assert {name for name, spec in plan.specs.items() if spec.method == "stored"} == kept


def test_the_very_integers_and_tables_are_in_the_package(folder, tmp_path):
    bundle = export(folder, tmp_path, "coreml", "--quant", "int4-fast")
    blob = (bundle / "decoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin").read_bytes()
    gate = finished("lut", (512, 256), GATE)
    assert gate.packed.tobytes() in blob and gate.lut.tobytes() in blob
    query = finished("rows", (256, 256), QUERY)
    assert query.q.tobytes() in blob and query.scale.tobytes() in blob


def test_parts_are_found_in_the_cache_until_statistics_change(
    folder, tmp_path, capsys, monkeypatch
):
    def run(output):
        arguments = ["coreml", "--checkpoint", str(folder), "--context-length", "64"]
        arguments += ["--quant", "int4-fast"]
        cache = ["--cache", str(tmp_path / "cache")]
        assert export_main([*arguments, *cache, "--output", str(tmp_path / output)]) == 0
        return " ".join(capsys.readouterr().err.split())

    assert "taken from the cache" not in run("first")
    assert run("second").count("taken from the cache") == 5
    source = open_source(folder)
    assert source.digest(GATE, 0, 512) == source.digest(GATE, 0, 512) != source.digest(DOWN, 0, 256)
    monkeypatch.setattr(FinishedSource, "largest_moment", 2.0)
    assert "taken from the cache" not in run("third"), "methods may go by the statistics"


def test_a_method_is_given_the_statistics_of_its_matrix(folder, tmp_path, monkeypatch):
    given = {}

    def choose(values, spec, statistics):
        given[values.name] = statistics
        return palettize(
            values.array,
            bits=spec.bits,
            group_size=spec.group_size,
            name=values.name,
            padded_rows=values.padded_rows,
        )

    monkeypatch.setitem(METHODS, "kmeans", Method(frozenset({"lut"}), choose))
    export(folder, tmp_path, "coreml", "--quant", "int4-fast", "--no-cache")
    name = "llm.model.layers.1.mlp.down_proj.weight"
    np.testing.assert_array_equal(given[name].second_moments(), np.arange(1.0, 513.0))
    assert GATE not in given, "finished weights are not chosen again"
