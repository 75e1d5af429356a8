"""Mixed bits: what is forecast for each matrix, and the bundles that a budget makes."""

import json
import re

import numpy as np
import pytest

from export.calibration.gradients import Gradients
from export.calibration.layers import Inputs, LayerRunner
from export.calibration.sensitivity import Sensitivity
from export.calibration.torch_ops import Compute
from export.cli import main
from export.quant.recipes import LOOKUP_TABLES, Budget, budget_of
from mobile_runtime.bundle import read_manifest
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from validation.chats import default_chats
from validation.parity.parity import ParityOptions, run_parity
from validation.sources import open_checkpoint, rotated

TEXTS = ["The quick brown fox jumps over the lazy dog. " * 20, "0123456789 " * 60, "Alpha. " * 90]
LAYER = "llm.model.layers.0"


@pytest.fixture
def run(random_checkpoint, tmp_path, capsys):
    """run(quant, *flags) -> exit code, bundle or None, errors."""
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"texts": TEXTS}))

    def command(quant, *flags, backend="coreml"):
        where = ["--checkpoint", str(random_checkpoint), "--output", str(tmp_path / "out")]
        more = ["--cache", str(tmp_path / "cache"), "--calibration", str(texts), "--quiet"]
        sizes = ["--context-length", "320", "--prefill-length", "8"]
        code = main([backend, *where, *more, *sizes, "--quant", quant, *flags])
        made = list((tmp_path / "out").glob("*"))
        return code, made[0] if made else None, capsys.readouterr().err

    return command


def decoder_bits(bundle):
    """Bits of each calibrated matrix, by the recipe."""
    rules = read_manifest(bundle).recipe["rules"]
    return {r["pattern"]: r["spec"]["bits"] for r in rules if "_proj.weight" in r["pattern"]}


@pytest.mark.parametrize(
    ("backend", "quant"),
    [("coreml", "auto:5bpw"), ("onnx", "auto:6bpw"), ("coreml", "auto:0.0032GB")],
)
def test_a_budget_is_kept_and_the_bundle_is_the_model(run, random_checkpoint, backend, quant):
    code, bundle, _ = run(quant, backend=backend)
    assert (
        code == 0 and bundle.name == f"minicpmv-4.5-{backend}-{quant.replace(':', '-')}-calibrated"
    )
    manifest, bits = read_manifest(bundle), decoder_bits(bundle)
    assert len(bits) == 14 and len(set(bits.values())) > 1, "bits differ by matrix"
    prepared = manifest.recipe["prepared"]
    assert prepared["forecast"] > 0 and 0 <= prepared["gap"] < 1 and prepared["gradients"]
    if quant.endswith("GB"):
        size = sum(graph.weight_bytes for graph in manifest.graphs)
        assert size <= 0.0032e9
    options = ParityOptions(EngineOptions(precision="fp32"), new_tokens=4)
    report = run_parity(bundle, open_checkpoint(str(random_checkpoint)), default_chats(), options)
    assert {stage.status for stage in report.stages} == {"passed"}


def test_found_in_the_cache_it_is_the_same_bundle(run, tmp_path):
    recipes = []
    for _ in range(2):
        _, bundle, _ = run("auto:5bpw", "--overwrite")
        recipes.append(read_manifest(bundle).recipe)
    assert recipes[0] == recipes[1]
    assert len(list((tmp_path / "cache/calibrated").iterdir())) == 1


@pytest.mark.parametrize(
    "quant", ["auto:", "auto:4", "auto:bpw", "auto:-4bpw", "auto:4.5.5bpw", "auto:0GB"]
)
def test_what_is_no_budget_is_refused(run, quant):
    code, bundle, error = run(quant)
    assert (code, bundle) == (2, None)
    assert f"--quant {quant} is no budget; give such as auto:4.25bpw" in error


@pytest.mark.parametrize("quant", ["auto:2bpw", "auto:0.001GB"])
def test_too_little_is_refused_with_what_is_needed(run, quant):
    code, bundle, error = run(quant)
    assert (code, bundle) == (2, None)
    needed = re.search(r"needs ([\d.]+)(bpw|GB) at least", error)
    assert float(needed[1]) > budget_of(quant).amount


def test_budgets_are_read():
    assert budget_of("auto:4.25bpw") == Budget(4.25, "bpw")
    assert budget_of("auto:3GB") == Budget(3.0, "GB")
    assert budget_of("int4") is None
    with pytest.raises(InputError, match="no recipe 'int5'"):
        LOOKUP_TABLES.parts("int5")


class _Known(Gradients):
    """Squared gradients that are given."""

    def squares(self, block):
        return {name: np.full(TOKENS, value, np.float32) for name, value in KNOWN.items()}


TOKENS = 12
KNOWN = {f"{LAYER}.mlp.gate_proj.weight": 2.0, f"{LAYER}.mlp.up_proj.weight": 8.0}


def test_forecasts_follow_gradients_and_bits(random_checkpoint, tmp_path):
    """Linear in the squared gradient; each bit takes off a factor of about four."""
    source = rotated(open_checkpoint(str(random_checkpoint)), seed=0)
    runner = LayerRunner(source.described, Compute())
    rng = np.random.default_rng(0)
    size = source.config.decoder.hidden_size
    inputs = Inputs.of_texts([rng.normal(size=(n, size)).astype(np.float32) for n in (5, 4, 3)])
    options = {name: LOOKUP_TABLES.options((512, size)) for name in KNOWN}
    gradients = _Known(runner, source.checkpoint, tmp_path)
    sensitivity = Sensitivity(runner, source.checkpoint, gradients, options, tmp_path)
    sensitivity._sense(inputs)
    (losses,) = json.loads((tmp_path / "forecast_000.json").read_text())
    assert losses.keys() == KNOWN.keys()
    for found in losses.values():
        three, four, six, eight = found
        assert 2 < three / four < 8 and 6 < four / six < 40 and eight < six
    gate, up = (losses[name][1] for name in KNOWN)
    assert 2 < up / gate < 8, "random matrices of one size, and four times the squared gradient"
