"""The commands describe and run: what they print and write, and that mistakes are one sentence."""

import json

import numpy as np
import pytest
from PIL import Image

from mobile_runtime.cli import main

ct = pytest.importorskip("coremltools")
torch = pytest.importorskip("torch")

PIXELS = np.random.default_rng(3).integers(0, 256, (6, 10, 3), np.uint8)


class Detector(torch.nn.Module):
    """A picture, an array and a number in; a picture, an array and a number out."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 128, 3, bias=False)

    def forward(self, image, shift, scale):
        features = self.conv(image).mean((2, 3)) + shift
        return 255 - image, features * scale, features.sum().reshape(1)


@pytest.fixture(scope="module")
def package(convert):
    return convert(
        Detector(),
        [(1, 3, 6, 10), (1, 128), (1,)],
        [
            ct.ImageType("image", shape=(1, 3, 6, 10)),
            ct.TensorType("shift", shape=(1, 128)),
            ct.TensorType("scale", shape=(1,), default_value=np.full(1, 2, np.float32)),
        ],
        outputs=[ct.ImageType("negative"), ct.TensorType("y"), ct.TensorType("sum")],
    )


@pytest.fixture
def files(tmp_path):
    """Options that give the inputs, but the optional one."""
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    np.save(tmp_path / "shift.npy", np.linspace(0, 1, 128)[None])
    given = (f"image={tmp_path / 'photo.png'}", f"shift={tmp_path / 'shift.npy'}")
    return [word for item in given for word in ("--input", item)]


def expected(package, scale):
    module = Detector()
    from mobile_runtime.mlprogram.program import BlobTensor, load_program

    for op in load_program(package).functions["main"].block.operations:
        value = op.attributes.get("val")
        if isinstance(value, BlobTensor) and value.shape == (128, 3, 3, 3):
            weight = value.packed.view(np.float32).reshape(value.shape)
    with torch.no_grad():
        module.conv.weight[:] = torch.tensor(weight)
        image = torch.tensor(PIXELS.transpose(2, 0, 1)[None]).float()
        shift = torch.linspace(0, 1, 128)[None]
        return [array.numpy() for array in module(image, shift, torch.tensor([scale]))]


@pytest.mark.parametrize(("given", "scale"), [([], 2.0), (["--input", "scale=-0.5"], -0.5)])
def test_run_writes_the_outputs(given, scale, package, files, tmp_path, capsys):
    target = tmp_path / "new/out.npz"
    arguments = ["run", str(package), *files, *given, "--output", str(target)]
    assert main([*arguments, "--precision", "fp32"]) == 0
    negative, y, total = expected(package, scale)
    with np.load(target) as found:
        assert set(found) == {"negative", "y", "sum"}
        np.testing.assert_array_equal(found["negative"], negative[0].transpose(1, 2, 0))
        np.testing.assert_allclose(found["y"], y, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found["sum"], total, rtol=1e-4)
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(target)
    for part in ("picture RGBA, 6 × 10", "float32, 1 × 128", f"{found_sum(target):.6g}"):
        assert part in printed


def found_sum(target):
    with np.load(target) as found:
        return float(found["sum"][0])


def test_describe_prints_what_coremltools_knows(package, capsys):
    assert main(["describe", str(package)]) == 0
    printed = capsys.readouterr().out
    for part in (
        "model.mlpackage: an ML Program, specification version 8 (iOS 17, macOS 14)",
        "picture RGB, 6 × 10 (height × width)",
        "float32, 1, 2 by default",
        "1 conv",
        "the interpreter has all of these operations",
    ):
        assert part in printed
    assert main(["describe", str(package), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    spec = ct.utils.load_spec(str(package))
    assert told["specification_version"] == spec.specificationVersion
    assert told["metadata"] == dict(spec.description.metadata.userDefined)
    function = told["functions"]["main"]
    for ours, theirs in (("inputs", "input"), ("outputs", "output")):
        names = [feature.name for feature in getattr(spec.description, theirs)]
        assert [feature["name"] for feature in function[ours]] == names
    assert function["inputs"][2]["default"] == 2 and function["inputs"][2]["optional"]
    block = spec.mlProgram.functions["main"].block_specializations["CoreML7"]
    kinds = [op.type for op in block.operations if op.type != "const"]
    assert told["operations"]["main"] == {kind: kinds.count(kind) for kind in kinds}
    assert told["runs"] and told["missing"] == {}
    (form,) = (form for form in told["weights"] if form["form"] == "float32")
    assert form["values"] >= 128 * 27 and form["bytes"] == 4 * form["values"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--input", "image"], "--input got 'image'; give NAME=FILE"),
        (["--input", "shift=half"], "shift got 'half'; give a .npy file or a number: it"),
        (["--input", "shift=none.npy"], "none.npy does not exist"),
        (["--input", "image=none.png"], "none.png does not exist"),
        (["--input", "nothing=1"], "has no input nothing; its inputs are image, shift, scale"),
        (["--function", "other"], "has no function 'other'"),
        (["--keep", "nowhere"], "has no value nowhere to keep"),
        (["--output", "."], "cannot be written; name a file"),
    ],
)
def test_mistakes_are_one_sentence(words, said, package, files, capsys):
    assert main(["run", str(package), *files, *words]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_a_picture_of_another_size_is_scaled_only_when_asked(package, files, tmp_path, capsys):
    Image.fromarray(PIXELS).resize((40, 30)).save(tmp_path / "photo.png")
    assert main(["run", str(package), *files]) == 2
    assert "a picture of 30 × 40 (height × width) for image" in capsys.readouterr().err
    target = tmp_path / "out.npz"
    assert main(["run", str(package), *files, "--resize", "--output", str(target)]) == 0
    stretched = Image.open(tmp_path / "photo.png").resize((10, 6), Image.Resampling.BILINEAR)
    with np.load(target) as found:
        np.testing.assert_array_equal(found["negative"], 255 - np.asarray(stretched))


def test_arrays_that_numpy_would_unpickle_are_refused(package, files, tmp_path, capsys):
    np.save(tmp_path / "shift.npy", np.array([{}], object), allow_pickle=True)
    assert main(["run", str(package), *files]) == 2
    assert "is no array that numpy reads" in capsys.readouterr().err


def test_an_output_is_whole_or_absent(package, files, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    assert main(["run", str(package), *files, "--output", str(tmp_path / "out.npz")]) == 2
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_info_of_a_package_leads_to_describe(package, capsys):
    assert main(["info", str(package)]) == 2
    assert "is a Core ML package, not a bundle; python -m mobile_runtime describe" in (
        capsys.readouterr().err
    )


def test_a_classifier_s_outputs_are_printed_and_written(convert, tmp_path, capsys):
    path = convert(
        lambda x: x.softmax(-1),
        [(1, 3)],
        [ct.TensorType("x", shape=(1, 3))],
        "classifier",
        classifier_config=ct.ClassifierConfig(["cat", "dog", "bird"]),
    )
    np.save(tmp_path / "x.npy", np.array([[0, 2, 1]], np.float32))
    target = tmp_path / "out.npz"
    words = ["--input", f"x={tmp_path / 'x.npy'}", "--output", str(target)]
    assert main(["run", str(path), *words, "--precision", "fp32"]) == 0
    assert "dog 0.6652, bird 0.2447, cat 0.09003" in capsys.readouterr().out
    with np.load(target) as found:
        assert found["classLabel"] == "dog"
        (name,) = (n.removesuffix(".labels") for n in found if n.endswith(".labels"))
        assert found[f"{name}.labels"].tolist() == ["cat", "dog", "bird"]
        powers = np.exp([0, 2, 1])
        np.testing.assert_allclose(found[name], powers / powers.sum(), rtol=1e-5)


def test_limits_are_raised_and_lowered(package, files, capsys):
    arguments = ["run", str(package), *files]
    assert main([*arguments, "--memory", "1e-6"]) == 2
    assert "may take 1,073: do not use it, allow more" in capsys.readouterr().err
    assert main([*arguments, "--work", "1e-12"]) == 2
    assert "multiplications and may do 500: do not use it" in capsys.readouterr().err
    assert main([*arguments, "--memory", "1", "--work", "2"]) == 0


@pytest.mark.parametrize("option", ["--memory", "--work"])
def test_what_is_no_limit_is_refused_before_the_package_is_opened(option, capsys):
    assert main(["run", "absent.mlpackage", option, "nan"]) == 2
    error = capsys.readouterr().err
    assert f"The limit of {option[2:]} is nan; give a number above 0" in error
    assert error.count("\n") == 1
