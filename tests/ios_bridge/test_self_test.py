"""The self-test of the Swift package on packages that Python recorded, and its report."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from export.backends import BACKENDS
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle
from mobile_runtime.bundle import read_manifest
from mobile_runtime.session import Session
from tests.ios_bridge.recording import TOLERANCE, Recorder
from validation.chats import default_chats
from validation.cli import main
from validation.parity.golden import write_golden
from validation.parity.metrics import psnr
from validation.parity.parity import prepare_named
from validation.sources import open_checkpoint


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The default model in four bits."""
    out = tmp_path_factory.mktemp("plain") / "bundle"
    config = ExportConfig(quant="int4", output=out, context_length=512)
    return export_bundle(config, BACKENDS["coreml"], Progress(quiet=True))


@pytest.fixture(scope="module")
def bundle(plain, tmp_path_factory):
    """The same with golden vectors."""
    made = tmp_path_factory.mktemp("golden") / "bundle"
    shutil.copytree(plain, made)
    write_golden(made, open_checkpoint(None), default_chats())
    return made


@pytest.fixture
def expected(bundle, tmp_path):
    """What the stages must give, by Python; records their calls in `tmp_path`."""
    recorder = Recorder(read_manifest(bundle))
    golden = load_file(bundle / "golden/arrays.safetensors")
    stages = {"vision_encoder": [], "resampler": [], "logits": [], "right": []}
    with recorder.listening():
        session = Session.load(bundle, verify=False)
        for named in default_chats():
            _run(session, bundle, named, golden, stages)
    recorder.write(tmp_path / "calls.json", tmp_path / "values.raw")
    right = stages.pop("right")
    figures = {stage: min(values) for stage, values in stages.items()}
    counts = {stage: len(values) for stage, values in stages.items()}
    return figures | {"greedy_tokens": np.mean(right)}, counts | {"greedy_tokens": len(right)}


def decibels(candidate, reference):
    """In double precision throughout, as in Swift."""
    return psnr(candidate, reference.astype(np.float64))


def _run(session, bundle, named, golden, stages):
    model, prompt = session.model, prepare_named(session, named)
    rows = model.embedding(prompt.encoded.input_ids)
    for n, (views, group) in enumerate(zip(prompt.groups, prompt.encoded.groups, strict=True)):
        features = [golden[f"{named.name}.image_features.{n}.{m}"] for m in range(len(views))]
        for view, wanted in zip(views, features, strict=True):
            stages["vision_encoder"].append(decibels(model.vision.encode_view(view), wanted))
        sizes = [view.tgt_size for view in views]
        embeds = golden[f"{named.name}.image_embeds.{n}"]
        found = model.vision.resample(features, sizes, group.temporal_ids)
        stages["resampler"].append(decibels(found, embeds))
        start, end = prompt.encoded.image_bound[n]
        rows[start:end] = embeds
    chats = json.loads((bundle / "golden/chats.json").read_text(encoding="utf-8"))
    (chat,) = (chat for chat in chats if chat["name"] == named.name)
    model.decoder.reset()
    logits = model.decoder.next_logits(rows, 0)
    stages["logits"].append(decibels(logits, golden[f"{named.name}.logits"]))
    for step, token in enumerate(chat["greedy_tokens"]):
        stages["right"].append(int(logits.argmax()) == token)
        row = model.embedding(np.array([token]))
        logits = model.decoder.next_logits(row, len(rows) + step)


def test_the_report_has_the_figures_of_python(bundle, expected, minicpmv, tmp_path, capsys):
    figures, counts = expected
    files = ("--calls", tmp_path / "calls.json", "--values", tmp_path / "values.raw")
    options = (
        "--units",
        "cpu",
        "--cache",
        tmp_path / "cache",
        *files,
        "--tolerance",
        str(TOLERANCE),
    )
    file = tmp_path / "device.json"
    file.write_bytes(minicpmv("self-test", bundle, *options))
    report = json.loads(file.read_text(encoding="utf-8"))
    stages = {stage["stage"]: stage for stage in report["stages"]}
    assert [stage.get("failure") for stage in report["stages"]] == [None] * 5
    for name, wanted in figures.items():
        key = "agreement" if name == "greedy_tokens" else "decibels"
        assert stages[name][key] == pytest.approx(wanted, rel=1e-9)
        assert stages[name]["count"] == counts[name]
        assert stages[name]["unit"] == "cpu"
    packages = [placed["package"] for placed in report["placements"]]
    assert packages == [graph.name for graph in read_manifest(bundle).graphs]
    assert main(["device-report", str(file)]) == 0
    assert "vision_encoder" in capsys.readouterr().out


def test_a_package_that_fails_is_a_failed_stage(bundle, minicpmv, tmp_path):
    file = tmp_path / "device.json"
    given = ("--units", "cpu", "--cache", tmp_path / "cache", *_empty_recording(tmp_path))
    file.write_bytes(minicpmv("self-test", bundle, *given))
    report = json.loads(file.read_text(encoding="utf-8"))
    failures = [stage["stage"] for stage in report["stages"] if stage.get("failure")]
    assert failures == ["vision_encoder", "resampler", "logits"]
    assert main(["device-report", str(file)]) == 1


def test_a_bundle_without_golden_vectors_is_refused(minicpmv, plain, tmp_path):
    files = _empty_recording(tmp_path)
    done = minicpmv("self-test", plain, "--cache", tmp_path / "cache", *files, check=False)
    assert done.returncode == 2
    assert b"error: The bundle has no golden vectors" in done.stderr


def test_files_are_verified_once(minicpmv, bundle, tmp_path):
    cache = ("--cache", tmp_path / "cache", "--units", "cpu")

    def states():
        done = minicpmv("self-test", bundle, *cache, *_empty_recording(tmp_path), check=False)
        lines = done.stderr.decode().splitlines()
        return done.returncode, [line for line in lines if line.startswith("verifying")], lines

    code, first, lines = states()
    assert (code, first[0], first[-1]) == (
        0,
        "verifying(fraction: 0.0)",
        "verifying(fraction: 1.0)",
    )
    packages = [graph.name for graph in read_manifest(bundle).graphs]
    compiled = [line.split('"')[1] for line in lines if line.startswith("compiling")]
    assert compiled == packages
    (record,) = (tmp_path / "cache").iterdir()
    known = json.loads(record.read_text(encoding="utf-8"))["verified"]
    assert set(known) == {entry.path for entry in read_manifest(bundle).files}
    # Without reading a megabyte there is one report a file.
    assert len(states()[1]) == 1 + len(known) < len(first)
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    (damaged / "README.md").write_text("x")
    done = minicpmv("self-test", damaged, *cache, *_empty_recording(tmp_path), check=False)
    assert done.returncode == 2
    assert b"README.md has 1 bytes" in done.stderr


def _empty_recording(folder):
    (folder / "calls.json").write_text("[]")
    (folder / "values.raw").write_bytes(b"")
    return "--calls", folder / "calls.json", "--values", folder / "values.raw"
