"""Whole packages: damage, misuse, and models that PyTorch converts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine, UnsupportedOperation
from mobile_runtime.engines.mil.registry import OPERATIONS, register
from mobile_runtime.errors import InputError

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402

RNG = np.random.default_rng(5)
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
X = RNG.standard_normal((3, 32)).astype(np.float16)


def build_linear(x):
    weight = np.random.default_rng(6).standard_normal((48, 32)).astype(np.float16)
    return mb.linear(x=x, weight=weight, name="projection")


@pytest.fixture
def package(save) -> Path:
    return save(build_linear, {"x": X})


def test_folder_that_is_no_package_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"not a Core ML package.*\.mlpackage"):
        MilEngine(tmp_path)


def test_missing_model_file_is_named(package):
    (package / MODEL).unlink()
    with pytest.raises(InputError, match=r"lacks its model com.apple.CoreML/model.mlmodel"):
        MilEngine(package)


def test_truncated_model_file_is_damaged(package):
    path = package / MODEL
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="is not a Core ML model: it is damaged"):
        MilEngine(package)


def test_model_without_a_program_is_refused(package):
    (package / MODEL).write_bytes(b"")
    with pytest.raises(InputError, match="not an ML Program"):
        MilEngine(package)


def test_manifest_that_leads_out_of_the_package_is_refused(package):
    path = package / "Manifest.json"
    content = json.loads(path.read_text())
    content["itemInfoEntries"][content["rootModelIdentifier"]]["path"] = "../../model.mlmodel"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="leads out of it"):
        MilEngine(package)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_damaged_manifest_is_an_input_error(content, package):
    (package / "Manifest.json").write_text(content)
    with pytest.raises(InputError, match="does not name a model"):
        MilEngine(package)


def test_weight_path_that_leads_out_of_the_package_is_refused(package):
    path = package / MODEL
    inside, outside = b"@model_path/weights/weight.bin", b"@model_path/../../../../escape"
    assert len(inside) == len(outside)
    path.write_bytes(path.read_bytes().replace(inside, outside))
    with pytest.raises(InputError, match="leads out of it"):
        MilEngine(package)


def test_missing_weight_file_is_named(package):
    (package / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"weight file .*weight.bin is missing"):
        MilEngine(package)


def damage(package: Path, offset: int, content: bytes) -> None:
    path = package / WEIGHTS
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)


@pytest.mark.parametrize("size", [0, 32, 64, 100, 500])
def test_truncated_weight_file_is_damaged(size, package):
    path = package / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match="damaged; copy or export"):
        MilEngine(package)


@pytest.mark.parametrize(
    ("offset", "symptom"),
    [(4, "storage version"), (64, "has no weight at byte 64"), (68, "type 255"), (72, "bytes of")],
    ids=["version", "sentinel", "type", "size"],
)
def test_wrong_weight_metadata_is_damaged(offset, symptom, package):
    damage(package, offset, b"\xff\0\0\0")
    with pytest.raises(InputError, match=symptom):
        MilEngine(package)


def test_unknown_operations_are_named(save, monkeypatch):
    package = save(build_linear, {"x": X})
    monkeypatch.delitem(OPERATIONS, "linear")
    named = r"does not have its operations linear \(1 times\); convert"
    with pytest.raises(UnsupportedOperation, match=named):
        MilEngine(package)


def test_unknown_option_of_an_operation_is_named(save, monkeypatch):
    definition = OPERATIONS["linear"]
    with monkeypatch.context() as patch:
        patch.delitem(OPERATIONS, "linear")
        register("linear")(lambda x, weight: x)
        package = save(build_linear, {"x": X})
        with pytest.raises(UnsupportedOperation, match="'projection': linear with bias"):
            MilEngine(package)
    assert OPERATIONS["linear"] is definition


def test_registering_an_operation_twice_is_an_error():
    with pytest.raises(KeyError, match="'linear' is registered twice"):
        register("linear")(lambda x: x)


def test_unknown_precision_is_refused(package):
    with pytest.raises(InputError, match="fp32, fp16"):
        MilEngine(package, precision="bf16")


MISUSE = {
    "missing": ({}, {}, "needs the input x"),
    "unknown": ({"x": X, "z": X}, {}, "has no input z"),
    "shape": ({"x": X[:1]}, {}, r"got x with shape \(1, 32\).*expected \(3, 32\)"),
    "type": ({"x": X.astype(complex)}, {}, "type complex128"),
    "function": ({"x": X}, {"function": "prefill"}, "no function 'prefill'; it has main"),
    "keep": ({"x": X}, {"keep": ["nowhere"]}, "has no value nowhere to keep"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_names_what_was_given_and_what_is_expected(case, package):
    inputs, options, message = MISUSE[case]
    with pytest.raises(InputError, match=message):
        MilEngine(package).run(inputs, **options)


def test_integer_input_refuses_fractions(save):
    engine = MilEngine(save(lambda i: mb.add(x=i, y=np.int32(1)), {"i": np.zeros(2, np.int32)}))
    with pytest.raises(InputError, match=r"got i with .*float32"):
        engine.run({"i": np.zeros(2, np.float32)})


def test_state_of_the_wrong_shape_is_refused(save):
    def build(x, cache):
        return mb.add(x=mb.read_state(input=cache), y=x)

    engine = MilEngine(save(build, {"x": X}, {"cache": ((3, 32), "float16")}))
    with pytest.raises(InputError, match="the state cache"):
        engine.run({"x": X}, state={"cache": np.zeros((1, 32), np.float32)})
    with pytest.raises(InputError, match="got nothing for the state cache"):
        engine.run({"x": X}, state={})


def test_kept_values_are_returned_beside_the_outputs(save):
    def build(x):
        return mb.mul(x=mb.add(x=x, y=np.float16(1), name="inner"), y=np.float16(2))

    results = MilEngine(save(build, {"x": X}), precision="fp32").run({"x": X}, keep=["inner", "x"])
    np.testing.assert_array_equal(results["inner"], X.astype(np.float32) + 1)
    np.testing.assert_array_equal(results["x"], X)
    np.testing.assert_array_equal(results["result_0"], results["inner"] * 2)


def test_functions_list_their_inputs_and_outputs(package):
    function = MilEngine(package).functions["main"]
    assert [(s.name, s.shape, s.dtype) for s in function.inputs] == [("x", (3, 32), "float16")]
    assert [(s.name, s.shape) for s in function.outputs] == [("result_0", (3, 48))]
    assert function.states == ()


class Attention(torch.nn.Module):
    """Grouped-query attention with norms of query and key, and rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = torch.nn.Linear(64, 64, False), torch.nn.Linear(64, 32, False)
        self.v, self.o = torch.nn.Linear(64, 32, False), torch.nn.Linear(64, 64, False)
        self.q_gain = torch.nn.Parameter(torch.rand(16) + 0.5)
        self.k_gain = torch.nn.Parameter(torch.rand(16) + 0.5)

    def forward(self, x, cos, sin, mask):
        def rms(x, gain):
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * gain

        def rotate(x):
            first, second = x.chunk(2, -1)
            return x * cos + torch.cat([-second, first], -1) * sin

        q = rotate(rms(self.q(x).view(1, -1, 4, 16), self.q_gain).transpose(1, 2))
        k = rotate(rms(self.k(x).view(1, -1, 2, 16), self.k_gain).transpose(1, 2))
        v = self.v(x).view(1, -1, 2, 16).transpose(1, 2)
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        scores = torch.softmax(q @ k.transpose(-1, -2) / 4 + mask, -1)
        return self.o((scores @ v).transpose(1, 2).reshape(1, -1, 64))


class Block(torch.nn.Module):
    """A decoder layer in the manner of Qwen3, tiny."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(64), torch.nn.LayerNorm(64)])
        self.gate, self.up = torch.nn.Linear(64, 96, False), torch.nn.Linear(64, 96, False)
        self.down = torch.nn.Linear(96, 64, False)

    def forward(self, x, cos, sin, mask):
        x = x + self.attention(self.norms[0](x), cos, sin, mask)
        h = self.norms[1](x)
        return x + self.down(torch.nn.functional.silu(self.gate(h)) * self.up(h))


class Tower(torch.nn.Module):
    """Patch embedding, one encoder layer and pooling, as vision towers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 32, 4, 4)
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(32), torch.nn.LayerNorm(32)])
        self.qkv, self.out = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)
        self.up, self.down = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose(1, 2)
        heads = self.qkv(self.norms[0](x)).view(1, 16, 3, 4, 8).permute(2, 0, 3, 1, 4)
        attended = torch.nn.functional.scaled_dot_product_attention(*heads.unbind(0))
        x = x + self.out(attended.transpose(1, 2).reshape(1, 16, 32))
        x = x + self.down(torch.nn.functional.gelu(self.up(self.norms[1](x)), approximate="tanh"))
        x = x.transpose(1, 2).reshape(1, 32, 4, 4)
        x = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        return torch.nn.functional.max_pool2d(x, 4).flatten(1)


def psnr(reference: np.ndarray, ours: np.ndarray) -> float:
    rmse = np.sqrt(np.mean((reference - ours) ** 2))
    return float(20 * np.log10(np.abs(reference).max() / max(rmse, 1e-30)))


def converted(module: torch.nn.Module, inputs: dict[str, torch.Tensor], path: Path, precision):
    """Convert by tracing, with coremltools' own passes, and return PyTorch's result too."""
    with torch.no_grad():
        expected = module(*inputs.values()).numpy()
        traced = torch.jit.trace(module, tuple(inputs.values()))
    ct.convert(
        traced,
        inputs=[ct.TensorType(name=name, shape=value.shape) for name, value in inputs.items()],
        outputs=[ct.TensorType(name="y")],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=precision,
        skip_model_load=True,
    ).save(str(path))
    return expected


def block_inputs() -> dict[str, torch.Tensor]:
    angle = torch.arange(6)[:, None] / 100 ** (torch.arange(8) / 8)
    angle = torch.cat([angle, angle], -1)
    return {
        "x": torch.randn(1, 6, 64),
        "cos": angle.cos(),
        "sin": angle.sin(),
        "mask": torch.full((6, 6), -1e4).triu(1),
    }


MODULES = {
    "decoder_block": (Block, block_inputs),
    "vision_tower": (Tower, lambda: {"image": torch.randn(1, 3, 16, 16)}),
}


@pytest.mark.parametrize("name", MODULES)
def test_converted_module_equals_torch(name, tmp_path):
    make, make_inputs = MODULES[name]
    torch.manual_seed(0)
    module, inputs = make().eval(), make_inputs()
    arrays = {key: value.numpy() for key, value in inputs.items()}
    for precision, bits, floor in (
        (ct.precision.FLOAT32, "fp32", 110),
        (ct.precision.FLOAT16, "fp32", 65),
        (ct.precision.FLOAT16, "fp16", 50),
    ):
        path = tmp_path / f"{precision.name}_{bits}.mlpackage"
        expected = converted(module, inputs, path, precision)
        ours = MilEngine(path, precision=bits).run(arrays)["y"]
        assert psnr(expected, ours) > floor


def test_shape_that_is_left_open_accepts_any_size(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Softmax(-1)).eval()
    traced = torch.jit.trace(module, torch.zeros(1, 3, 8))
    length = ct.RangeDim(1, 16, default=3)
    ct.convert(
        traced,
        inputs=[ct.TensorType(name="x", shape=(1, length, 8))],
        outputs=[ct.TensorType(name="y")],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    ).save(str(tmp_path / "open.mlpackage"))
    engine = MilEngine(tmp_path / "open.mlpackage", precision="fp32")
    for size in (1, 7):
        x = torch.randn(1, size, 8)
        with torch.no_grad():
            np.testing.assert_allclose(
                engine.run({"x": x.numpy()})["y"], module(x).numpy(), atol=1e-6
            )
