"""onnxruntime's side features: prepacked weights, .ort files, execution providers."""

import random
import re

import numpy as np
import pytest

from mobile_runtime.bundle import read_manifest
from mobile_runtime.cli import main
from mobile_runtime.engines import EngineOptions
from mobile_runtime.engines.onnx import OnnxEngine
from mobile_runtime.engines.onnx.ort_files import write_ort_files
from mobile_runtime.errors import InputError
from mobile_runtime.model.onnx import OnnxGraphs
from validation.cli import main as validate

DATA = ("decoder_model_merged", "resampler", "vision_encoder")


@pytest.fixture(scope="module", params=["onnx", "onnx-portable"])
def bundle(request, make_onnx_bundle):
    return make_onnx_bundle(request.param, "int4-fast", kv_cache="float32")


def graphs(bundle, **options):
    return OnnxGraphs(bundle, read_manifest(bundle), EngineOptions(threads=1, **options))


def logits(opened):
    engine = opened["decoder"]
    shape = (1, 5, 64)
    given = np.random.default_rng(0).standard_normal(shape, np.float32)
    (width,) = (v.shape[-1] for v in engine._session.get_inputs() if v.name == "inputs_embeds")
    inputs = {
        "inputs_embeds": np.resize(given, (1, 5, width)),
        "attention_mask": np.ones((1, 5), np.int64),
        "num_logits_to_keep": np.array([0], np.int64),
    }
    return engine.run(inputs, state=engine.new_state(64))["logits"]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_prepacked_weights_are_written_once_and_change_nothing(bundle, tmp_path, precision):
    expected = logits(graphs(bundle, precision=precision))
    for _ in range(2):
        opened = graphs(bundle, precision=precision, prepacked=tmp_path / "cache")
        np.testing.assert_array_equal(logits(opened), expected)
        times = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*")}
        (folder,) = (tmp_path / "cache").iterdir()
        assert len(list(folder.iterdir())) == 3, "graph, weights, digests"
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*")}


def test_other_weights_get_prepacked_weights_of_their_own(make_onnx_bundle, tmp_path):
    for quant in ("int4-fast", "int8"):
        logits(graphs(make_onnx_bundle("onnx", quant), prepacked=tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_embeddings_are_mapped_as_they_are(bundle, tmp_path):
    assert graphs(bundle, prepacked=tmp_path)["embed_tokens"]
    assert not list(tmp_path.iterdir())


def test_a_refused_graph_leaves_nothing_in_the_cache(bundle, tmp_path):
    opened = graphs(bundle, prepacked=tmp_path)
    opened._bundle = tmp_path / "elsewhere"
    with pytest.raises(InputError, match="cannot open"):
        opened["decoder"]
    assert not list(tmp_path.iterdir())


def test_a_damaged_cache_or_a_file_in_its_place_is_one_sentence(bundle, tmp_path, capsys):
    assert graphs(bundle, prepacked=tmp_path / "cache")["decoder"]
    (data,) = (tmp_path / "cache").glob("*/*_data")
    with data.open("r+b") as file:
        file.truncate(1000)
    for folder, words in ((tmp_path / "cache", "is damaged; remove it"), (data, "is a file; give")):
        assert main(["chat", str(bundle), "Hello", "--prepacked", str(folder)]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1


def test_no_flipped_bit_of_prepacked_weights_is_accepted(bundle, tmp_path):
    assert graphs(bundle, prepacked=tmp_path / "cache")["decoder"]
    files, rng = sorted((tmp_path / "cache").glob("*/*")), random.Random(0)
    assert len(files) == 3
    for number in range(60):
        path = files[number % 3]
        data = path.read_bytes()
        flipped = bytearray(data)
        place = rng.randrange(8 * len(data))
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match="is damaged; remove it"):
            graphs(bundle, prepacked=tmp_path / "cache")["decoder"]
        path.write_bytes(data)
    assert graphs(bundle, prepacked=tmp_path / "cache")["decoder"]


def test_chat_takes_a_folder_for_prepacked_weights(bundle, tmp_path, capsys):
    arguments = ["chat", str(bundle), "Hello", "--greedy", "--max-new-tokens", "3"]
    assert main(arguments) == 0
    expected = capsys.readouterr().out
    assert main([*arguments, "--prepacked", str(tmp_path / "cache")]) == 0
    assert capsys.readouterr().out == expected
    assert [p.name.rpartition("-")[0] for p in (tmp_path / "cache").iterdir()] == [DATA[0]]


def test_prepacked_weights_are_refused_for_a_core_ml_bundle(make_bundle, tmp_path, capsys):
    assert main(["chat", str(make_bundle()), "Hi", "--prepacked", str(tmp_path / "cache")]) == 2
    error = capsys.readouterr().err
    assert "leave --prepacked out" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "cache").exists()


def test_ort_files_compute_the_same_and_every_operator_is_listed(bundle, tmp_path):
    paths = write_ort_files(bundle, read_manifest(bundle), tmp_path / "ort")
    names = [path.name for path in paths]
    files = [f"{n}.ort" for n in (*DATA, "embed_tokens")]
    assert names == sorted([*files, "required_operators.config"])
    ids = {"input_ids": np.arange(9)[None]}
    (expected,) = OnnxEngine.load(bundle / "embed_tokens.onnx").run(ids).values()
    (got,) = OnnxEngine.load(tmp_path / "ort/embed_tokens.ort").run(ids).values()
    np.testing.assert_array_equal(got, expected)
    listed = (tmp_path / "ort/required_operators.config").read_text()
    assert re.search(r"^com\.microsoft;1;.*\bMatMulNBits\b", listed, re.MULTILINE)
    assert re.search(r"^ai\.onnx;\d+;.*\bLayerNormalization\b", listed, re.MULTILINE)


def test_ort_refuses_what_it_cannot_write_and_leaves_nothing(
    bundle, make_bundle, tmp_path, capsys, monkeypatch
):
    assert main(["ort", str(make_bundle()), str(tmp_path / "new")]) == 2
    assert "only ONNX graphs become .ort" in capsys.readouterr().err
    assert main(["ort", str(bundle), str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["ort", str(bundle), str(tmp_path / "file" / "new")]) == 2
    assert "file/new cannot be made" in capsys.readouterr().err
    (tmp_path / "file").unlink()
    monkeypatch.setattr("mobile_runtime.engines.onnx.ort_files.MAX_BYTES", 1000)
    assert main(["ort", str(bundle), str(tmp_path / "new")]) == 2
    assert "more weights than the 2 GB" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("mobile_runtime.engines.onnx.ort_files.write_operators", _full_disk)
    assert main(["ort", str(bundle), str(tmp_path / "new")]) == 2
    assert not list(tmp_path.iterdir())


def _full_disk(*_):
    raise OSError(28, "No space left on device")


def test_providers_tells_what_runs_where(bundle, make_bundle, capsys):
    assert validate(["providers", str(bundle)]) == 0
    printed = capsys.readouterr().out
    taken = re.findall(r"│ (\w+) +│ cpu +│ (\d+) of (\d+) ", printed)
    assert {name for name, _, _ in taken} == {*DATA, "embed_tokens"}
    assert all(part == whole != "0" for _, part, whole in taken)
    assert validate(["providers", str(make_bundle())]) == 2
    assert "run only ONNX graphs" in capsys.readouterr().err
