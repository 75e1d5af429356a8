"""`validation package`: the figures are right, exit codes tell, mistakes are one sentence."""

import json
import logging

import numpy as np
import pytest

from validation.cli import main
from validation.parity.metrics import psnr, snr

logging.getLogger("coremltools").setLevel(logging.ERROR)
ct = pytest.importorskip("coremltools")
torch = pytest.importorskip("torch")

SOURCE = '''
import torch


class Scaled(torch.nn.Module):
    """`error` is added to the second output: what a wrong conversion would give."""

    def __init__(self, error=0.0):
        super().__init__()
        self.error = error

    def forward(self, picture, x):
        return 255 - picture, torch.tanh(x) + self.error


right, wrong = Scaled(), lambda: Scaled(0.01)
named = type("Named", (Scaled,), {"forward": lambda self, *a: dict(
    zip(("y", "negative"), reversed(Scaled.forward(self, *a))))})
lacking = type("Lacking", (Scaled,), {"forward": lambda self, p, x: {"negative": p}})
single = type("Single", (Scaled,), {"forward": lambda self, p, x: p})
misfit = type("Misfit", (Scaled,), {"forward": lambda self, p, x: p @ x})
shape = type("Shape", (Scaled,), {"forward": lambda self, p, x: (p, x[:1])})
number = lambda: 3
'''
RNG = np.random.default_rng(4)
PIXELS = RNG.integers(0, 256, (6, 10, 3), np.uint8)
X = RNG.standard_normal((2, 300)).astype(np.float32)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """`right`, converted."""
    scope = {}
    exec(SOURCE, scope)
    traced = torch.jit.trace(scope["right"], (torch.zeros(1, 3, 6, 10), torch.zeros(2, 300)))
    path = tmp_path_factory.mktemp("converted") / "m.mlpackage"
    ct.convert(
        traced,
        inputs=[
            ct.ImageType("picture", shape=(1, 3, 6, 10), color_layout=ct.colorlayout.BGR),
            ct.TensorType("x", shape=(2, 300)),
        ],
        outputs=[
            ct.ImageType("negative", color_layout=ct.colorlayout.BGR),
            ct.TensorType("y"),
        ],
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    ).save(str(path))
    return str(path)


@pytest.fixture
def workspace(package, tmp_path, monkeypatch):
    """The working folder has the module and inputs. Returns the arguments of a call."""
    name = f"module_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    np.savez("in.npz", picture=PIXELS, x=X)

    def arguments(factory):
        return ["package", package, "--torch", f"{name}:{factory}", "--inputs", "in.npz"]

    return arguments


@pytest.mark.parametrize("factory", ["right", "Scaled", "named"])
def test_a_right_package_passes(factory, workspace, capsys):
    assert main([*workspace(factory), "--least", "100", "--output", "report.json"]) == 0
    printed = capsys.readouterr().out
    assert "exact" in printed and "a PSNR of 100 dB or more" in printed
    with open("report.json", encoding="utf-8") as file:
        report = json.load(file)
    negative, y = report["outputs"]
    assert (negative["output"], negative["psnr_db"], negative["passed"]) == (
        "negative",
        "inf",
        True,
    )
    assert y["shape"] == [2, 300] and float(y["psnr_db"]) > 100
    assert report["precision"] == "fp32"


def test_pytorch_as_the_engine_gives_the_same_verdicts(workspace, capsys, monkeypatch):
    from mobile_runtime.engines.torch import engine

    ran, run = [], engine.TorchEngine.run
    monkeypatch.setattr(
        engine.TorchEngine, "run", lambda self, *a, **k: ran.append(self) or run(self, *a, **k)
    )
    told = ["--engine", "torch", "--device", "cpu", "--output", "report.json"]
    assert main([*workspace("right"), "--least", "100", *told]) == 0
    assert ran
    with open("report.json", encoding="utf-8") as file:
        assert json.load(file)["engine"] == "torch"
    assert main([*workspace("wrong"), *told]) == 1
    assert main([*workspace("right"), "--engine", "torch", "--device", "no-such"]) == 2
    assert "no-such" in capsys.readouterr().err


def test_an_output_below_the_floor_fails_with_its_figures(workspace, capsys):
    assert main([*workspace("wrong"), "--output", "report.json"]) == 1
    assert "failed" in capsys.readouterr().out
    with open("report.json", encoding="utf-8") as file:
        (_, y) = json.load(file)["outputs"]
    reference = np.tanh(X.astype(np.float64)) + 0.01
    assert y["psnr_db"] == pytest.approx(20 * np.log10(np.abs(reference).max() / 0.01), abs=0.01)
    root_mean_square = np.sqrt(np.mean(reference**2))
    assert y["snr_db"] == pytest.approx(20 * np.log10(root_mean_square / 0.01), abs=0.01)
    assert y["largest_error"] == pytest.approx(0.01, abs=1e-5)
    assert main([*workspace("wrong"), "--least", "30"]) == 0


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("none", "gives no module (AttributeError"),
        ("number", "gives a int; return a torch.nn.Module"),
        ("lacking", "gives no y; it gives negative"),
        ("single", "gives 1 outputs and the package 2 (negative, y); give as many"),
        ("misfit", "fails on inputs of the shapes (1, 3, 6, 10), (2, 300) (RuntimeError"),
        ("shape", "y has the shape (2, 300), and PyTorch's has (1, 300)"),
    ],
)
def test_modules_that_do_not_fit_are_one_sentence(factory, said, workspace, capsys):
    assert main(workspace(factory)) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and said in error[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--torch", "right"], "give MODULE:FACTORY"),
        (["--torch", "no_such_module:build"], "ModuleNotFoundError"),
        (["--inputs", "none.npz"], "none.npz does not exist"),
        (["--inputs", "one.npy"], "holds one array without a name"),
        (["--inputs", "other.npz"], "has no input z; its inputs are picture, x"),
        (["--function", "other"], "has no function 'other'; it has main"),
    ],
)
def test_mistakes_are_one_sentence(words, said, workspace, capsys):
    np.save("one.npy", X)
    np.savez("other.npz", z=X)
    assert main([*workspace("right"), *words]) == 2
    assert said in capsys.readouterr().err


def test_signal_to_noise_of_a_known_error():
    reference = np.array([3.0, -4.0, 0.0, 0.0])
    assert snr(reference + 0.025, reference) == pytest.approx(20 * np.log10(2.5 / 0.025))
    assert psnr(reference + 0.025, reference) == pytest.approx(20 * np.log10(4 / 0.025))
    assert snr(reference, reference) == np.inf
