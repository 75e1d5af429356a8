"""The audit names the operations at which planted faults start, and the exporter repairs them."""

import json

import numpy as np
import pytest
from PIL import Image

from export.backends import BACKENDS
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle
from mobile_runtime.bundle import read_manifest
from mobile_runtime.engines import EngineOptions
from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.engines.mil.pairs import Rounding
from mobile_runtime.mlprogram.program import Operation
from tests.validation.parity.planted import CHANNEL, write_planted_checkpoint
from validation.chats import default_chats
from validation.cli import main
from validation.doctor.examine import examine
from validation.parity.audit.findings import Findings
from validation.parity.audit.run import audit_bundle
from validation.parity.parity import ParityOptions, run_parity
from validation.sources import open_checkpoint

CHATS = default_chats()[:1]
UP = "llm_model_layers_0_mlp_up_proj"
SUM, SCORES = "llm_model_layers_0_mlp_down_proj", "vpm_encoder_layers_1_self_attn_k_proj"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "checkpoint"
    write_planted_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def export(planted, tmp_path_factory):
    def make(**options):
        config = ExportConfig(
            checkpoint=str(planted),
            output=tmp_path_factory.mktemp("bundles"),
            quant="none",
            context_length=320,
            **options,
        )
        return export_bundle(config, BACKENDS["coreml"], Progress(quiet=True))

    return make


@pytest.fixture(scope="module")
def faulty(export):
    return export()


@pytest.fixture(scope="module")
def failing(faulty, planted):
    """Stages of the faulty bundle in half precision."""
    with np.errstate(all="ignore"):
        return stages_of(faulty, planted, "fp16")


def stages_of(bundle, checkpoint, precision):
    options = ParityOptions(EngineOptions(precision=precision), new_tokens=2)
    report = run_parity(bundle, open_checkpoint(str(checkpoint)), CHATS, options)
    return {stage.stage: stage for stage in report.stages}


def test_planted_faults_are_found_at_their_operations(faulty):
    audit = audit_bundle(faulty, CHATS, 1)
    scores, total = audit.starts
    assert (scores.package, scores.type) == ("vision_encoder.mlpackage", "matmul")
    assert scores.after == SCORES and scores.found.largest > 1e5
    assert (total.package, total.name) == ("decoder.mlpackage", SUM)
    assert 3e5 < total.found.largest < 4e5 and total.headroom < 0.25
    # Neither is charged with what the other made: the sum's inputs are exact ones.
    assert total.found.given == scores.found.given == 0
    assert {one.name for one in audit.operations[:2]} == {scores.name, total.name}
    (cost,) = audit.costs
    assert cost.worst_db == -np.inf and "no answer" in cost.note


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(
    "repair", [{"fit_half": 16}, {"fit_half": 1, "rotate": True}], ids=["divided", "rotated"]
)
def test_repairs_are_exact_and_bring_half_precision_back(failing, export, planted, repair):
    bundle = export(**repair)
    half, full = (stages_of(bundle, planted, precision) for precision in ("fp16", "fp32"))
    for name in ("vision_encoder", "decoder", "end_to_end"):
        assert failing[name].status == "failed"
        assert half[name].checkpoint_db >= 50 and half[name].status == "passed"
        assert full[name].checkpoint_db > 70 and full[name].status == "passed"
    audit = audit_bundle(bundle, CHATS, 1)
    assert not audit.failed
    # The product of gate and up is divided too: in the planted model it reaches hundreds.
    product = max(one.found.largest for one in audit.operations if one.after == UP)
    assert 500 < product * repair["fit_half"] < 2000
    assert read_manifest(bundle).recipe["fit_half"] == repair["fit_half"]
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert f"divided by {repair['fit_half']}" in card
    assert not examine(bundle).failed


def test_terminal_and_json_say_where_it_starts(faulty, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (60, 40), (200, 30, 90)).save(folder / "red.png")
    target = tmp_path / "audit.json"
    arguments = ["audit", str(faulty), "--images", str(folder), "--max-new-tokens", "0"]
    assert main([*arguments, "--json", str(target)]) == 1
    said = capsys.readouterr().out
    assert said.index("goes wrong in half precision") < said.index(SUM) < said.index("largest")
    report = json.loads(target.read_text(encoding="utf-8"))
    assert [cost["input"] for cost in report["costs"]] == ["red.png"]
    assert report["starts"][1]["operation"] == SUM and report["operations"][0]["overflows"] > 0
    assert report["operations"][0]["accumulated_db"] is None


def audit_head(bundle, folder, largest):
    """Exit code and report of the audit of a head whose input has one large channel."""
    hidden = np.random.default_rng(0).normal(size=(1, 256, 1, 1)).astype(np.float32)
    hidden[0, CHANNEL] = largest
    np.savez(folder / "inputs.npz", hidden_states=hidden)
    given = ["--inputs", str(folder / "inputs.npz"), "--json", str(folder / "audit.json")]
    code = main(["audit", str(bundle / "lm_head.mlpackage"), *given])
    return code, json.loads((folder / "audit.json").read_text(encoding="utf-8")), hidden


def test_a_package_alone_is_audited_on_arrays(faulty, tmp_path):
    code, report, hidden = audit_head(faulty, tmp_path, 6e4)
    assert code == 0 and report["starts"] == []
    exact, rounded = (
        MilEngine(faulty / "lm_head.mlpackage", precision=p).run({"hidden_states": hidden})
        for p in ("fp32", "fp16")
    )
    error = np.sqrt(np.mean((exact["logits_00"] - rounded["logits_00"]) ** 2, dtype=np.float64))
    expected = 20 * np.log10(np.abs(exact["logits_00"]).max() / error)
    assert report["costs"][0]["metrics"]["logits_00"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_inputs_beyond_half_precision_are_no_operation_s_overflow(faulty, tmp_path):
    code, report, _ = audit_head(faulty, tmp_path, 7e4)
    (start,) = report["starts"]
    assert code == 1 and start["type"] == "mul" and start["overflows"] == 0
    assert "is given infinities" in start["finding"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{bundle}", "--inputs", "x.npz"], "--inputs is for a package"),
        (["{bundle}", "--images", "nowhere"], "nowhere is not a folder"),
        (["{bundle}/lm_head.mlpackage"], "needs inputs; give --inputs FILE or --images DIR"),
        (["{bundle}/lm_head.mlpackage", "--messages", "x.json"], "--messages is for a bundle"),
        (["{bundle}/lm_head.mlpackage", "--inputs", "x.npz"], "x.npz does not exist"),
        (["{bundle}", "--max-new-tokens", "-1"], "--max-new-tokens is -1"),
    ],
)
def test_mistakes_are_one_sentence(faulty, arguments, said, capsys):
    given = [argument.format(bundle=faulty) for argument in arguments]
    assert main(["audit", *given]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_bundle_of_another_format_is_refused(make_onnx_bundle, capsys):
    assert main(["audit", str(make_onnx_bundle())]) == 2
    assert "audit reads Core ML bundles" in capsys.readouterr().err


def test_an_operation_without_a_telling_name_is_placed_by_what_it_reads():
    """Also through operations that only move values, and over several calls."""
    findings = Findings()
    conv, part, add = (
        Operation(kind, name, {"x": (source,)}, {}, (), ())
        for kind, name, source in (
            ("conv", "q_proj", "x"),
            ("slice_by_index", "slice_1", "q_proj"),
            ("add", "add_1", "slice_1"),
        )
    )
    bad = Rounding(count=4, largest=8.0, local=1e-9, accumulated=4.0, full_largest=8.0)
    for _ in range(2):
        findings("p", "main", conv, "q_proj", Rounding(4, 1e-5, 0, 0, 3, 1e-20, 1e-20, 1e-5))
        findings("p", "main", part, "slice_1", None)
        findings("p", "main", add, "add_1", bad)
    first, second = findings.in_order
    assert (second.after, second.found.count) == ("q_proj", 8)
    assert second.accumulated_db == pytest.approx(20 * np.log10(8))
    assert findings.starts() == [first], "it gives numbers too small for all digits"
