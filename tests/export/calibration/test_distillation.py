"""Distillation: gradients against finite differences, Adam against torch's, and what it is for."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from export.calibration import distillation
from export.calibration.distillation import Distillation, _State, levels_of
from export.calibration.head import Head
from export.calibration.layers import Inputs, LayerRunner
from export.calibration.torch_ops import Compute
from export.checkpoint.calibrated import save_weights
from export.cli import main
from export.quant.methods import Values, quantize
from export.quant.recipe import QuantSpec
from mobile_runtime.bundle import read_manifest
from validation.cli import main as validation
from validation.sources import open_checkpoint, rotated

LENGTHS = (5, 3, 4)
SPECS = {
    "tables": QuantSpec("lut", 4, 16),
    "blocks": QuantSpec("blocks", 4, 32),
    "asymmetric blocks": QuantSpec("blocks", 4, 32, symmetric=False),
}

TEXTS = ["The quick brown fox. " * 30, "0123456789 " * 40]


def quantized(values, spec):
    return quantize(Values(values, "matrix", len(values)), spec)


@pytest.fixture(scope="module")
def source(random_checkpoint):
    return rotated(open_checkpoint(str(random_checkpoint)), seed=0)


def make(source, folder, steps, spec=SPECS["tables"]):
    """A distillation of blocks that are rounded without a calibration."""
    rng = np.random.default_rng(0)
    size = source.config.decoder.hidden_size
    texts = [rng.normal(size=(n, size)).astype(np.float32) for n in LENGTHS]
    folder.mkdir(exist_ok=True)
    files = []
    for block in range(source.config.decoder.num_layers):
        name = f"llm.model.layers.{block}.mlp.down_proj.weight"
        values = source.checkpoint.read(name).astype(np.float32)
        files.append(folder / f"block_{block:03d}.st")
        fitted = spec.fitted(values.shape)
        save_weights({name: quantized(values, fitted)}, {name: fitted}, files[-1])
    runner = LayerRunner(source.described, Compute())
    return Distillation(runner, source.checkpoint, files, Inputs.of_texts(texts), steps, folder)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_levels_are_the_matrix_and_take_its_gradient(spec):
    rng = np.random.default_rng(0)
    weight = quantized(rng.normal(size=(32, 64)).astype(np.float32), spec)
    levels = levels_of(weight, "cpu")
    values = levels.values.clone().requires_grad_()
    matrix = levels.matrix(values)
    np.testing.assert_allclose(matrix.detach(), weight.dequantize(), atol=1e-6)
    arriving = torch.from_numpy(rng.normal(size=(32, 64)).astype(np.float32))
    (expected,) = torch.autograd.grad(matrix, values, arriving)
    torch.testing.assert_close(levels.gradient(arriving), expected)
    doubled = levels.weight(2 * levels.values)
    if spec.symmetric:
        np.testing.assert_allclose(doubled.dequantize(), 2 * weight.dequantize(), rtol=1e-3)
    assert type(doubled) is type(weight) and doubled.layout == weight.layout


def test_the_gradient_of_the_whole_model_is_that_of_finite_differences(source, tmp_path):
    whole = make(source, tmp_path, 1)
    blocks = [distillation._read_levels(source.checkpoint, path, "cpu") for path in whole.files]
    state = _State.load(tmp_path / "none", {n: v for block in blocks for n, v in block.items()})
    teacher = whole._teacher()
    head = Head(source.checkpoint, Compute(), source.config.decoder)
    gradients = whole._gradients(blocks, state, whole.inputs, teacher, head)

    def loss(moved):
        inputs = whole.inputs
        for block in blocks:
            spread = whole._spread(block, replace(state, moved=moved))
            inputs = whole.runner.run(inputs, source.checkpoint, loaded=spread)
        p, q = (
            head.logits(torch.from_numpy(at.hidden)).detach().double().log_softmax(1)
            for at in (teacher, inputs)
        )
        return float((p.exp() * (p - q)).sum(1).mean())

    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        step = {
            n: 0.02 * torch.randn(moved.shape, generator=random) for n, moved in state.moved.items()
        }
        change = loss(step) - loss({n: -moved for n, moved in step.items()})
        along = sum(float((gradients[n] * moved).sum()) for n, moved in step.items())
        assert 2 * along == pytest.approx(change, rel=0.05)


def test_steps_are_those_of_adam():
    theirs = torch.zeros(3, 2, requires_grad=True)
    adam = torch.optim.Adam([theirs], betas=distillation._BETAS, eps=distillation._EPSILON)
    state = _State(0, *({"a": torch.zeros(3, 2)} for _ in range(3)))
    random = torch.Generator().manual_seed(0)
    for rate in (0.1, 0.2, 0.05):
        theirs.grad = torch.randn(3, 2, generator=random)
        state.follow({"a": theirs.grad.clone()}, rate)
        adam.param_groups[0]["lr"] = rate
        adam.step()
    torch.testing.assert_close(state.moved["a"], theirs.detach())


def test_every_text_is_drawn_as_often_as_any_other(monkeypatch):
    monkeypatch.setattr(distillation, "DISTILLED_POSITIONS", 7)
    batches = distillation._drawn(LENGTHS)
    drawn = [text for _ in range(300) for text in next(batches)]
    counts = np.bincount(drawn, minlength=len(LENGTHS))
    assert np.ptp(counts) <= 1 and len(set(map(tuple, np.reshape(drawn[:300], (-1, 3))))) == 6


def test_the_rate_rises_and_falls():
    rates = [distillation._rate(step, 40) for step in range(1, 41)]
    top = int(np.argmax(rates))
    assert top == distillation._WARM - 1 and rates[-1] < 0.1 * rates[top]
    assert np.all(np.diff(rates[: top + 1]) > 0) and np.all(np.diff(rates[top:]) < 0)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_stopped_one_goes_on_to_the_same_weights(source, tmp_path, monkeypatch, spec):
    whole, stopped = (make(source, tmp_path / name, 4, spec) for name in ("whole", "stopped"))
    whole.complete(lambda *_: None)

    class Killed(Exception):
        pass

    def kill(_, done, *rest):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        stopped.complete(kill)
    saved = []

    def save(*arguments):  # the second time, killed between two files
        if saved:
            raise Killed
        saved.append(arguments)
        save_weights(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(distillation, "save_weights", save)
        with pytest.raises(Killed):
            stopped.complete(lambda *_: None)
    stopped.complete(lambda *_: None)
    for path in whole.folder.glob("*.safetensors"):
        assert path.read_bytes() == (stopped.folder / path.name).read_bytes()
        tuned, before = load_file(path), load_file(path.with_suffix(".st"))
        changed = [key for key in tuned if not np.array_equal(tuned[key], before[key])]
        assert len(changed) == 1, "tables or scales, and nothing else"


@pytest.fixture(scope="module")
def export(random_checkpoint, tmp_path_factory):
    """Export with more arguments; return the bundle."""
    folder = tmp_path_factory.mktemp("distilled")
    texts = folder / "texts.json"
    texts.write_text(json.dumps({"texts": TEXTS}))

    def run(backend, *more):
        output = folder / "-".join([backend, *more])
        if output.exists():
            return next(output.iterdir())
        arguments = ["--checkpoint", str(random_checkpoint), "--calibration", str(texts), "--quiet"]
        where = ["--output", str(output), "--cache", str(folder / "cache")]
        sizes = ["--context-length", "64", "--prefill-length", "4"] if backend == "coreml" else []
        assert main([backend, *arguments, *where, *sizes, *more]) == 0
        return next(output.iterdir())

    return run


@pytest.mark.parametrize("backend", ["coreml", "onnx"])
def test_the_bundle_comes_nearer_to_the_checkpoint(export, random_checkpoint, tmp_path, backend):
    bundles = [export(backend), export(backend, "--distill", "100")]
    texts, path = [tmp_path / f"{n}.txt" for n in range(len(TEXTS))], tmp_path / "quality.json"
    for text, content in zip(texts, TEXTS, strict=True):
        text.write_text(content)
    asked = ["--tokens", "120", "--precision", "fp32", "--json", str(path)]
    arguments = [*map(str, bundles), "--checkpoint", str(random_checkpoint), "--texts"]
    assert validation(["quality", *arguments, *map(str, texts), *asked]) == 0
    rows = json.loads(path.read_text())["rows"]
    # Matrices have made up for each other's errors before: a tenth and more is left to gain.
    for plain, distilled in zip(rows[::2], rows[1::2], strict=True):
        assert distilled["kl"] < 0.9 * plain["kl"], plain["text"]
        assert distilled["bits_per_weight"] == plain["bits_per_weight"]


def test_a_bundle_says_so(export):
    bundle = export("coreml", "--distill", "2")
    assert read_manifest(bundle).recipe["prepared"]["distilled"] == 2
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "tuned by distillation, 2 steps" in card
    assert read_manifest(export("coreml")).recipe["prepared"]["distilled"] == 0
    kept = list((bundle.parent.parent / "cache/calibrated").iterdir())
    assert kept and not [path for one in kept for path in one.glob("*.st")], (
        "what was needed on the way is gone"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--quant", "int4-fast", "--distill", "2"], "--distill is for choosing the decoder's"),
        (["--distill", "-1"], "--distill -1 is not possible"),
    ],
)
def test_what_cannot_be_distilled_is_refused(random_checkpoint, tmp_path, capsys, arguments, said):
    where = ["--checkpoint", str(random_checkpoint), "--output", str(tmp_path / "out"), "--quiet"]
    assert main(["coreml", *where, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
