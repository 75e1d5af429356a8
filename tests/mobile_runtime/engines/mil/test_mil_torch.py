"""The engine torch: its table of forms, halves, what falls back on numpy, devices, whole bundles.

That every form equals the interpreter's operation is tested where that operation is: each case of
the tables beside this file runs on both (see `execute`).
"""

from __future__ import annotations

import inspect
import sys

import numpy as np
import pytest

from mobile_runtime.engines import EngineOptions, open_engine
from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.engines.mil.registry import OPERATIONS
from mobile_runtime.errors import InputError
from mobile_runtime.package.package import Package
from mobile_runtime.session import GREEDY, ChatOptions, Session
from tests.mobile_runtime.turns import gradient, user
from validation.parity.metrics import psnr
from validation.parity.stages import FP16_FLOOR

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402

from mobile_runtime.engines.torch import TorchEngine, device  # noqa: E402
from mobile_runtime.engines.torch.forms import TENSOR_FORMS  # noqa: E402

RNG = np.random.default_rng(8)
BUNDLE = ("int4-fast", "state", 320)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", TENSOR_FORMS)
def test_a_form_takes_what_the_operation_takes(kind):
    form, operation = TENSOR_FORMS[kind], OPERATIONS[kind]
    parameters = inspect.signature(form.function).parameters
    assert parameters.keys() - {"detach"} == operation.parameters
    defaults = {name: p.default for name, p in parameters.items()}
    own = inspect.signature(operation.function).parameters
    assert defaults == {name: own[name].default for name in defaults} or "detach" in parameters
    assert form.tensors | form.either <= operation.parameters
    assert form.tensors


def layer(x, mask):
    """Products, a normalization, attention and a gate, in half precision."""
    weight = RNG.standard_normal((32, 32)).astype(np.float16) / np.float16(8)
    normed = mb.layer_norm(x=x, axes=[-1], gamma=np.ones(32, np.float16), epsilon=np.float16(1e-5))
    query = mb.linear(x=normed, weight=weight)
    scores = mb.add(x=mb.matmul(x=query, y=normed, transpose_y=True), y=mask)
    mixed = mb.matmul(x=mb.softmax(x=scores), y=normed)
    gate = mb.mul(x=mb.silu(x=mixed), y=mb.gelu(x=query))
    return mb.concat(values=[mb.reduce_mean(x=gate, axes=[-1], keep_dims=True), x], axis=-1)


@pytest.mark.parametrize("stores_half", [False, True])
def test_halves_are_rounded_after_each_operation(stores_half, save):
    inputs = {"x": normal(1, 6, 32).astype(np.float16), "mask": np.zeros((6, 6), np.float16)}
    package = save(layer, inputs)
    expected = MilEngine(package, precision="fp16").run(inputs)["result_0"]
    engine = TorchEngine(package, precision="fp16", stores_half=stores_half)
    found = engine.run(inputs)["result_0"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.astype(np.float16))
    # Two ways to add may round to neighbours, which 8 operations carry on.
    np.testing.assert_allclose(found, expected, rtol=2**-8, atol=2**-10)
    assert psnr(found, expected) >= 70
    exact = TorchEngine(package, precision="fp32").run(inputs)["result_0"]
    assert psnr(exact, MilEngine(package, precision="fp32").run(inputs)["result_0"]) >= 100
    assert (exact != exact.astype(np.float16)).any()


def test_weights_are_stored_as_halves_only_where_these_hold_them(save):
    fine, coarse = normal(64, 64), normal(64, 64).astype(np.float16).astype(np.float32)

    def build(x):
        return mb.linear(x=x, weight=fine), mb.linear(x=x, weight=coarse)

    x = normal(2, 64)
    engine = TorchEngine(save(build, {"x": x}), stores_half=True)
    results = engine.run({"x": x})
    tensors = engine._torch._weights.values()
    kinds = sorted(str(tensor.dtype) for tensor in tensors if tensor.ndim == 2)
    assert kinds == ["torch.float16", "torch.float32"]
    np.testing.assert_allclose(results["result_0"], x @ fine.T, rtol=1e-4, atol=1e-4)


def reflected(x):
    return mb.relu(x=mb.pad(x=x, pad=[1, 1], mode="reflect"))


def test_an_operation_without_a_form_is_computed_by_numpy_and_counted(save):
    x = normal(2, 5)
    package = Package(save(reflected, {"x": x}), engine="torch", precision="fp32")
    assert package.fallbacks == {}
    for _ in range(2):
        found = package.predict({"x": x})["result_0"]
    np.testing.assert_array_equal(found, np.maximum(np.pad(x, [(0, 0), (1, 1)], "reflect"), 0))
    assert package.fallbacks == {"pad": 2}
    assert Package(package.path).fallbacks == {}


def test_the_command_tells_what_numpy_computed(save, tmp_path, capsys):
    from mobile_runtime.cli import main

    x = normal(2, 5)
    np.save(tmp_path / "x.npy", x)
    package = save(reflected, {"x": x})
    given = ["run", str(package), "--input", f"x={tmp_path / 'x.npy'}"]
    sentence = "computed with numpy, since the engine has no form of them: 1 pad"
    assert main([*given, "--engine", "torch", "--device", "cpu"]) == 0
    assert sentence in capsys.readouterr().out
    assert main(given) == 0
    assert sentence not in capsys.readouterr().out
    assert main([*given, "--device", "cuda"]) == 2
    assert "is for the engine torch, and the engine is mil" in capsys.readouterr().err


def test_sizes_and_positions_stay_on_the_host(save):
    """A GPU would have to be waited for, each time that one is used."""

    def build(x, position):
        end = mb.add(x=position, y=np.int32([2]))
        begin = mb.concat(values=[np.int32([0]), position], axis=0)
        size = mb.gather(x=mb.shape(x=x), indices=np.int32([0]), axis=0)
        part = mb.slice_by_index(x=x, begin=begin, end=mb.concat(values=[size, end], axis=0))
        return mb.mul(x=part, y=np.float32(2))

    x = normal(3, 8)
    inputs = {"x": x, "position": np.int32([4])}
    engine = TorchEngine(save(build, inputs), precision="fp32")
    np.testing.assert_array_equal(engine.run(inputs)["result_0"], 2 * x[:, 4:6])
    assert engine.fallbacks == {}


def test_an_index_beyond_the_end_is_refused_before_the_device_sees_it(save):
    def build(x, indices):
        return mb.gather(x=x, indices=indices, axis=0)

    inputs = {"x": normal(4, 2), "indices": np.int32([1, 7])}
    with pytest.raises(InputError, match="of type gather does not fit"):
        TorchEngine(save(build, inputs)).run(inputs)


def test_weights_that_do_not_fit_are_refused_when_the_package_opens(save, monkeypatch):
    weight, x = normal(64, 64), normal(1, 64)
    package = save(lambda x: mb.linear(x=x, weight=weight), {"x": x})
    monkeypatch.setattr(device, "memory_share", lambda least: 1000)  # and its zeros as a bias
    with pytest.raises(InputError, match="take 16,640 bytes when they are expanded"):
        TorchEngine(package)


def test_a_full_device_is_told_in_one_sentence(save, monkeypatch):
    x = normal(1, 4)
    engine = TorchEngine(save(lambda x: mb.sinh(x=x), {"x": x}))

    def full(**given):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(engine._torch, "bind", lambda step, arguments, expand: (full, arguments))
    with pytest.raises(InputError, match=r"^The memory of the device cpu is full"):
        engine.run({"x": x})


@pytest.mark.parametrize("name", ["abacus", "meta", "cuda:99"])
def test_a_device_that_is_not_here_is_refused_before_a_file_is_read(name, tmp_path):
    with pytest.raises(InputError, match=r"device"):
        open_engine(tmp_path / "none.mlpackage", EngineOptions("torch", device=name))


def test_without_pytorch_the_sentence_names_the_extra(monkeypatch, make_bundle):
    for module in [name for name in sys.modules if name.startswith("mobile_runtime.engines.torch")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"run pip install -e '.\[torch\]'"):
        Session.load(make_bundle(*BUNDLE), EngineOptions("torch"))


@pytest.mark.parametrize("engine", ["onnx", "coreml"])
def test_packages_take_two_engines(engine, save):
    x = normal(1, 4)
    with pytest.raises(InputError, match="choose mil or torch"):
        Package(save(lambda x: mb.sinh(x=x), {"x": x}), engine=engine)


def answer(bundle, options):
    session = Session.load(bundle, options, verify=False)
    stream = session.chat(
        [user(gradient(200, 300), "One?")], ChatOptions(**vars(GREEDY) | {"max_new_tokens": 8})
    )
    list(stream)
    prompt = session.prepare([user(gradient(200, 300), "One?")])
    session.reset()
    return stream.token_ids, session.prefill(prompt)


@pytest.mark.parametrize("kv_cache", ["state", "io"])
def test_a_bundle_answers_with_the_same_tokens(kv_cache, make_bundle):
    bundle = make_bundle("int4-fast", kv_cache, 320)
    tokens, logits = answer(bundle, EngineOptions("mil", "fp32"))
    found, others = answer(bundle, EngineOptions("torch", "fp32"))
    assert found == tokens
    assert psnr(others, logits) >= 100


def test_a_bundles_operations_all_have_forms(make_bundle):
    session = Session.load(make_bundle(*BUNDLE), EngineOptions("torch"), verify=False)
    prompt = session.prepare([user(gradient(200, 300), "One?")])
    session.prefill(prompt)
    session.decode(5)
    opened = [package._engine for package in session.model.decoder.packages]
    opened += [engine for _, engine in session.model.decoder._graphs.heads]
    assert opened and all(engine.fallbacks == {} for engine in opened)


@pytest.mark.parametrize("stores_half", [False, True])
def test_a_decoder_in_half_precision_is_as_near_as_the_interpreter(stores_half, make_bundle):
    path = make_bundle(*BUNDLE) / "decoder.mlpackage"
    expected, found = (
        _prefilled(engine)
        for engine in (
            MilEngine(path, precision="fp32"),
            TorchEngine(path, precision="fp16", stores_half=stores_half),
        )
    )
    for name, array in expected.items():
        assert psnr(found[name], array) >= FP16_FLOOR


def _prefilled(engine):
    rng = np.random.default_rng(0)
    function = engine.functions["prefill"]
    inputs = {
        spec.name: (rng.standard_normal(spec.shape) / 4).astype(np.float32)
        if spec.dtype == "float16"
        else np.zeros(spec.shape, np.int32)
        for spec in function.inputs
    }
    inputs["attention_mask"] = np.zeros_like(inputs["attention_mask"])
    state = engine.new_state()
    outputs = engine.run(inputs, function="prefill", state=state)
    return outputs | {name: engine.read_state(state, name) for name in state}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")
@pytest.mark.parametrize(("precision", "floor"), [("fp32", 90), ("fp16", FP16_FLOOR)])
def test_a_gpu_gives_the_same(precision, floor, make_bundle):
    bundle = make_bundle(*BUNDLE)
    tokens, logits = answer(bundle, EngineOptions("mil", "fp32"))
    found, others = answer(bundle, EngineOptions("torch", precision, device="cuda"))
    assert psnr(others, logits) >= floor
    assert precision == "fp16" or found == tokens
