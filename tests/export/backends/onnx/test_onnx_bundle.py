"""The files of an ONNX bundle: names, standards, data, the same bytes on every way, refusals."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import onnx
import pytest

from export import cli as export_cli
from export.backends import BACKENDS
from export.backends.onnx import model as onnx_model
from export.backends.onnx.data import MAX_FILE_BYTES, DataLayout
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle
from mobile_runtime import cli as runtime_cli
from mobile_runtime.bundle import list_files, read_manifest, verify_files, write_manifest
from mobile_runtime.engines import EngineOptions
from mobile_runtime.session import GREEDY, Session
from tests.paths import ROOT
from tests.random_checkpoint import write_random_checkpoint
from validation import cli as validation_cli
from validation.chats import default_chats
from validation.parity.parity import ParityOptions, run_parity
from validation.sources import open_checkpoint

BOTH = ["onnx", "onnx-portable"]
LAYERS, KV_HEADS, HEAD_DIM = 2, 2, 64  # of the random checkpoint


def graphs(bundle):
    """Every graph of a bundle by file name, without its data."""
    return {
        path.name: onnx.load(path, load_external_data=False)
        for path in sorted(bundle.glob("*.onnx"))
    }


def shapes(values):
    """Name -> shape, what varies by its name."""
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values
    }


def external(tensor):
    return {entry.key: entry.value for entry in tensor.external_data}


@pytest.mark.parametrize("backend", BOTH)
def test_names_and_shapes_follow_the_convention(make_onnx_bundle, backend):
    found = graphs(make_onnx_bundle(backend, "none"))
    cache = ["batch_size", KV_HEADS, "max_sequence_length", HEAD_DIM]
    kinds = [f"{n}.{kind}" for n in range(LAYERS) for kind in ("key", "value")]
    past = {f"past_key_values.{kind}": cache for kind in kinds}
    text = {
        "attention_mask": ["batch_size", "total_sequence_length"],
        "num_logits_to_keep": [1],
    }
    embeds = {"inputs_embeds": ["batch_size", "sequence_length", 256]}
    decoder = found["decoder_model_merged.onnx"].graph
    assert shapes(decoder.input) == embeds | text | past
    outputs = shapes(decoder.output)
    assert list(outputs) == ["logits", *(f"present.{kind}" for kind in kinds)]
    assert outputs["logits"][:2] == ["batch_size", "num_logits"]
    embed = found["embed_tokens.onnx"].graph
    assert shapes(embed.input) == {"input_ids": ["batch_size", "sequence_length"]}
    assert shapes(embed.output) == embeds
    tower = found["vision_encoder.onnx"].graph
    assert shapes(tower.input) == {
        "pixel_values": ["batch_size", "num_patches", 588],
        "position_ids": ["batch_size", "num_patches"],
    }
    assert shapes(tower.output) == {"image_features": ["batch_size", "num_patches", 128]}
    resampler = found["resampler.onnx"].graph
    ids = {f"{kind}_ids": ["num_patches"] for kind in ("row", "column", "temporal")}
    assert shapes(resampler.input) == {"image_features": [1, "num_patches", 128]} | ids
    assert shapes(resampler.output) == {"image_embeds": [1, 64, 256]}


@pytest.mark.parametrize("quant", ["none", "int8", "int4-fast"])
def test_the_portable_profile_is_standard_onnx(make_onnx_bundle, quant):
    bundle = make_onnx_bundle("onnx-portable", quant)
    for name, model in graphs(bundle).items():
        onnx.checker.check_model(str(bundle / name), full_check=True)
        assert {node.domain for node in model.graph.node} == {""}, name
        assert [entry.domain for entry in model.opset_import] == [""], name
        assert model.functions == [] or len(model.functions) == 0


def test_the_fast_profile_uses_the_operations_it_is_fast_for(make_onnx_bundle):
    decoder = graphs(make_onnx_bundle("onnx", "int4-fast"))["decoder_model_merged.onnx"].graph
    kinds = [node.op_type for node in decoder.node]
    # Four products a layer (q, k and v are one, gate and up are one) and the head.
    assert kinds.count("MatMulNBits") == 4 * LAYERS + 1
    assert kinds.count("GroupQueryAttention") == LAYERS
    (level,) = {
        attribute.i
        for node in decoder.node
        for attribute in node.attribute
        if attribute.name == "accuracy_level"
    }
    assert level == 4


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("quant", ["none", "int4-fast"])
def test_data_begins_at_pages_inside_files_that_the_graph_fills(make_onnx_bundle, backend, quant):
    bundle = make_onnx_bundle(backend, quant)
    for name, model in graphs(bundle).items():
        ends = {}
        stored = [t for t in model.graph.initializer if t.external_data]
        assert stored, name
        for tensor in stored:
            place = external(tensor)
            begin, length = int(place["offset"]), int(place["length"])
            assert begin % 4096 == 0
            ends.setdefault(place["location"], []).append((begin, begin + length))
        for location, ranges in ends.items():
            path = bundle / location
            assert path.parent == bundle and path.stat().st_size < MAX_FILE_BYTES
            ranges.sort()
            for (_, end), (begin, _) in pairwise(ranges):
                assert end <= begin
            assert ranges[-1][1] <= path.stat().st_size
        # What stays in the proto is small: it is copied when the graph is opened.
        inline = sum(len(t.raw_data) for t in model.graph.initializer if not t.external_data)
        assert inline < 200_000


@pytest.fixture
def config(random_checkpoint, tmp_path):
    return ExportConfig(
        checkpoint=str(random_checkpoint),
        quant="int4-fast",
        output=tmp_path / "out",
        context_length=320,
        cache=tmp_path / "cache",
    )


def export(config, backend="onnx"):
    return export_bundle(config, BACKENDS[backend], Progress(quiet=True))


def files_of(bundle):
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    return (bundle / "manifest.json").read_bytes(), list_files(bundle)


def test_data_is_cut_into_files_below_the_limit(config, make_onnx_bundle, monkeypatch):
    limit = 300_000
    monkeypatch.setattr(onnx_model, "DataLayout", partial(DataLayout, limit))
    bundle = export(replace(config, no_cache=True))
    names = sorted(path.name for path in bundle.glob("decoder_model_merged.onnx_data*"))
    assert len(names) > 3
    assert names[:2] == ["decoder_model_merged.onnx_data", "decoder_model_merged.onnx_data_1"]
    assert max((bundle / name).stat().st_size for name in names) <= limit
    tokens = [_answer(path) for path in (bundle, make_onnx_bundle())]
    assert tokens[0] == tokens[1]


def _answer(bundle):
    stream = Session.load(bundle).chat([{"role": "user", "content": "Hi"}], GREEDY)
    for number, _ in enumerate(stream):
        if number == 8:
            stream.cancel()
    return stream.token_ids


@pytest.mark.parametrize("backend", BOTH)
def test_every_way_gives_the_same_bytes(config, make_onnx_bundle, monkeypatch, backend):
    """One process, two, and one that goes on after a failure."""
    alone = files_of(make_onnx_bundle(backend))
    assert files_of(export(replace(config, jobs=2, no_cache=True), backend)) == alone
    convert = BACKENDS[backend].convert

    def fail_at_the_decoder(graph, specs, weights, path):
        if graph.role == "decoder":
            next(iter(weights))
            path.write_bytes(b"half")
            raise RuntimeError("injected")
        convert(graph, specs, weights, path)

    config = replace(config, output=config.output / "resumed")
    with monkeypatch.context() as patch:
        patch.setattr(BACKENDS[backend], "convert", fail_at_the_decoder)
        with pytest.raises(RuntimeError, match="injected"):
            export(config, backend)
    assert list(config.output.iterdir()) == []
    assert files_of(export(config, backend)) == alone


def test_killed_it_goes_on_to_the_same_bytes(config, make_onnx_bundle):
    reference = files_of(make_onnx_bundle())
    arguments = ["--checkpoint", config.checkpoint, "--output", str(config.output)]
    arguments += ["--cache", str(config.cache), "--context-length", "320", "--quiet"]
    arguments += ["--quant", config.quant]
    command = [sys.executable, "-m", "export", "onnx", *arguments]
    target = config.output / "minicpmv-4.5-onnx-int4-fast"
    for _ in range(2):  # killed as soon as a part is finished, and again when it goes on
        parts = len(list(config.cache.glob("entries/*/*")))
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(config.cache.glob("entries/*/*"))) == parts:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if target.exists():
            break
    assert list(config.cache.glob("entries/*/*"))
    if not target.exists():
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert files_of(target) == reference


@pytest.fixture(scope="session")
def tied_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tied") / "checkpoint"
    write_random_checkpoint(folder, tie_word_embeddings=True)
    return folder


@pytest.mark.parametrize("backend", BOTH)
def test_tied_embeddings_are_the_head(make_onnx_bundle, tied_checkpoint, backend):
    bundle = make_onnx_bundle(backend, "int4-fast", checkpoint=tied_checkpoint)
    options = ParityOptions(
        EngineOptions(precision="fp32"), 4, ["embeddings", "decoder_model_merged"]
    )
    report = run_parity(bundle, open_checkpoint(str(tied_checkpoint)), default_chats(), options)
    results = {stage.stage: stage for stage in report.stages if stage.status != "not run"}
    assert {stage.status for stage in results.values()} == {"passed"} and len(results) == 2
    assert results["decoder_model_merged"].same_weights_db >= 90


@pytest.mark.parametrize("precision", ["int4", "int4a", "int4b128"])
@pytest.mark.parametrize("part", ["vision_encoder", "resampler", "embed_tokens"])
def test_four_bits_are_refused_where_they_do_not_pay(part, precision, config, capsys):
    arguments = ["onnx", "--checkpoint", config.checkpoint, "--output", str(config.output)]
    assert export_cli.main([*arguments, "--override", f"{part}={precision}"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {part} takes no {precision}, only none or fp16 or int8.\n"
    assert not config.output.exists()


DECODER, DATA = "decoder_model_merged.onnx", "decoder_model_merged.onnx_data"


def _flip(bundle):
    path = bundle / DATA
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(bundle):
    path = bundle / DATA
    path.write_bytes(path.read_bytes()[:-5000])


def _change(bundle, change):
    """Change the decoder's protos."""
    for name in (DECODER, "decoder_model_merged_exact.onnx"):
        model = onnx.load(bundle / name, load_external_data=False)
        change(model)
        (bundle / name).write_bytes(model.SerializeToString())


def _overwrite(bundle):
    for name in (DECODER, "decoder_model_merged_exact.onnx"):
        (bundle / name).write_bytes(b"no")


def _foreign(model):
    """An operation that somebody else registers."""
    node = next(node for node in model.graph.node if node.op_type == "Add")
    node.op_type, node.domain = "Sum9", "com.example"
    model.opset_import.add(domain="com.example", version=1)


def _later(model):
    """As a runtime that is too old sees what is too new for it."""
    model.opset_import[0].version = 99


def _outside(model):
    tensor = next(t for t in model.graph.initializer if t.external_data)
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = "../stolen"


def _declare_files(bundle):
    """Let the manifest agree with what lies there now."""
    manifest = read_manifest(bundle)
    write_manifest(bundle, replace(manifest, files=list_files(bundle)))


DAMAGES = {
    "flipped byte": (_flip, False, f"{DATA} does not match its checksum"),
    "truncated data": (_truncate, False, f"{DATA} has "),
    "missing data": (lambda b: (b / DATA).unlink(), False, f"lacks {DATA}"),
    "data that was truncated before": (_truncate, True, f"cannot open {DECODER}"),
    "data that was missing before": (lambda b: (b / DATA).unlink(), True, f"cannot open {DECODER}"),
    "foreign operation": (partial(_change, change=_foreign), True, "com.example"),
    "runtime too old": (partial(_change, change=_later), True, "use onnxruntime 1.32 or later"),
    "data outside": (partial(_change, change=_outside), True, f"cannot open {DECODER}"),
    "no proto": (_overwrite, True, f"cannot open {DECODER}"),
}


@pytest.fixture(params=DAMAGES)
def damaged(request, make_onnx_bundle, tmp_path):
    damage, declare, text = DAMAGES[request.param]
    bundle = tmp_path / "bundle"
    shutil.copytree(make_onnx_bundle(), bundle)
    damage(bundle)
    if declare:
        _declare_files(bundle)
    return bundle, text


def one_sentence(capsys, text):
    """What the user sees; the graph with float32 activations counts as the one beside it."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert text in captured.err.replace("_exact", "")


def test_a_damaged_bundle_is_one_sentence(damaged, random_checkpoint, capsys):
    bundle, text = damaged
    assert runtime_cli.main(["chat", str(bundle), "Hi", "--max-new-tokens", "2"]) == 2
    one_sentence(capsys, text)
    parity = ["parity", str(bundle), "--checkpoint", str(random_checkpoint)]
    assert validation_cli.main([*parity, "--stages", "decoder_model_merged"]) == 2
    one_sentence(capsys, text)


def test_without_onnxruntime_it_says_what_to_install(
    make_onnx_bundle, random_checkpoint, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    bundle = str(make_onnx_bundle())
    assert runtime_cli.main(["chat", bundle, "Hi"]) == 2
    one_sentence(capsys, "pip install -e '.[onnx]'")
    parity = ["parity", bundle, "--checkpoint", str(random_checkpoint)]
    assert validation_cli.main(parity) == 2
    one_sentence(capsys, "pip install -e '.[onnx]'")


@pytest.mark.parametrize("engine", ["mil", "coreml"])
def test_another_engine_is_one_sentence(make_onnx_bundle, capsys, engine):
    assert runtime_cli.main(["chat", str(make_onnx_bundle()), "Hi", "--engine", engine]) == 2
    one_sentence(capsys, f"the engine {engine} does not run onnx bundles; use the engine onnx")


def test_weights_come_out_of_the_data_files_as_they_went_in(make_onnx_bundle, random_checkpoint):
    """Read by plain onnx: the embedding's rows, scale a row, against the checkpoint's."""
    from export.checkpoint.checkpoint import Checkpoint

    bundle = make_onnx_bundle()
    model = onnx.load(bundle / "embed_tokens.onnx")
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    (q,), (scale,) = ([a for a in arrays.values() if a.dtype == d] for d in (np.int8, np.float32))
    table = Checkpoint(random_checkpoint).read("llm.model.embed_tokens.weight").astype(np.float64)
    assert q.shape == table.shape and scale.shape == (len(table), 1)
    step = np.abs(table).max(1, keepdims=True) / 127
    # Half a step, and what a float16 scale shifts 127 steps by.
    assert (np.abs(q * scale.astype(np.float64) - table) <= step * (0.5 + 127 * 2.0**-11)).all()
