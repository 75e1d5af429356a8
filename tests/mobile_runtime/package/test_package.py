"""Packages of anyone's: inputs, states, functions, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from mobile_runtime import InputError, Package, predict_anywhere
from mobile_runtime.mlprogram.program import load_program
from tests.processes import run_python

ct = pytest.importorskip("coremltools")
torch = pytest.importorskip("torch")
RNG = np.random.default_rng(2)
X = RNG.standard_normal((2, 4)).astype(np.float32)
TARGET = ct.target.iOS18


@pytest.fixture(scope="module")
def doubled(convert):
    """A package that gives twice its input (2, 4)."""
    return convert(lambda x: x * 2, [(2, 4)], [ct.TensorType("x", shape=(2, 4))])


def only(outputs):
    (value,) = outputs.values()
    return value


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_a_text_or_a_path(kind, doubled):
    assert Package(kind(doubled)).functions == ("main",)


@pytest.mark.parametrize(
    "given",
    [X, X.astype(np.float64), X.tolist(), torch.tensor(X, requires_grad=True)],
    ids=["float32", "float64", "list", "torch"],
)
def test_an_array_may_be_of_anything_that_holds_numbers(given, doubled):
    result = only(Package(doubled, precision="fp32").predict({"x": given}))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, X * 2)


def test_a_list_of_inputs_gives_a_list_of_outputs(doubled):
    results = Package(doubled, precision="fp32").predict([{"x": X}, {"x": X + 1}])
    np.testing.assert_array_equal(only(results[1]), (X + 1) * 2)
    assert len(results) == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, r"model.mlpackage, function 'main' needs the input x \(array, 2 × 4\)"),
        ({"x": X, "z": 1}, "has no input z; its inputs are x"),
        ({"x": X[:1]}, "got 1 × 4 for x, which takes 2 × 4"),
        ({"x": X.ravel()}, "got 8 for x, which takes 2 × 4"),
        ({"x": 1.0}, "got a single number for x"),
        ({"x": "one"}, "got <U3 for x; give numbers of type float32"),
        ({"x": [[1], [1, 2]]}, "a value for x that is no array"),
        (X, "predict got a ndarray; give a dictionary"),
        ([X], "predict got a list; give a dictionary"),
    ],
)
def test_misuse_is_one_sentence(data, said, doubled):
    with pytest.raises(InputError, match=said) as caught:
        Package(doubled).predict(data)
    assert "\n" not in str(caught.value)


def test_a_function_that_is_not_there_is_refused(doubled):
    with pytest.raises(InputError, match="has no function 'decode'; it has main"):
        Package(doubled).predict({"x": X}, function="decode")


def test_values_inside_of_the_program_can_be_kept(convert):
    path = convert(lambda x: torch.relu(x) + 1, [(2, 4)], [ct.TensorType("x", shape=(2, 4))])
    operations = load_program(path).functions["main"].block.operations
    (inner,) = [op.outputs[0].name for op in operations if op.type == "relu"]
    results = Package(path, precision="fp32").predict({"x": X}, keep=[inner])
    np.testing.assert_array_equal(results.pop(inner), np.maximum(X, 0))
    np.testing.assert_array_equal(only(results), np.maximum(X, 0) + 1)


RANGES = {
    "range": (
        ct.Shape((1, ct.RangeDim(4, 8, default=4), ct.RangeDim(2, 900, default=3))),
        [(1, 4, 3), (1, 8, 2), (1, 5, 900)],
        [(1, 3, 3), (1, 9, 3), (1, 4, 901), (2, 4, 3), (4, 3)],
        "1 × 4…8 × 2…900",
    ),
    "enumerated": (
        ct.EnumeratedShapes([(1, 4, 3), (1, 8, 6)]),
        [(1, 4, 3), (1, 8, 6)],
        [(1, 4, 6), (1, 6, 4), (1, 8, 3)],
        "1 × 4 × 3 or 1 × 8 × 6",
    ),
}


@pytest.mark.parametrize("case", RANGES)
def test_shapes_that_core_ml_refuses_are_refused(case, convert):
    shape, taken, refused, allowed = RANGES[case]
    path = convert(lambda x: x + 1, [(1, 4, 3)], [ct.TensorType("x", shape=shape)])
    package = Package(path, precision="fp32")
    for size in taken:
        np.testing.assert_array_equal(only(package.predict({"x": np.ones(size)})), np.full(size, 2))
    for size in refused:
        with pytest.raises(InputError, match=f"for x, which takes {allowed}"):
            package.predict({"x": np.ones(size)})


def test_an_input_with_a_default_may_be_left_out(convert):
    inputs = [
        ct.TensorType("x", shape=(2, 4)),
        ct.TensorType("y", shape=(2, 4), default_value=np.full((2, 4), 2.5, np.float32)),
    ]
    package = Package(convert(lambda x, y: x + y, [(2, 4)] * 2, inputs), precision="fp32")
    np.testing.assert_array_equal(only(package.predict({"x": X})), X + np.float32(2.5))
    np.testing.assert_array_equal(only(package.predict({"x": X, "y": X})), X + X)
    with pytest.raises(InputError, match="needs the input x"):
        package.predict({"y": X})


def test_integers_are_int32_and_do_not_wrap_around(convert):
    path = convert(
        lambda i: i + 1, [(3,)], [ct.TensorType("i", shape=(3,), dtype=np.int32)],
        outputs=[ct.TensorType("y", dtype=np.int32)],
    )  # fmt: skip
    package = Package(path)
    result = package.predict({"i": [1, 2, 3]})["y"]
    assert result.dtype == np.int32 and result.tolist() == [2, 3, 4]
    assert package.predict({"i": [1.0, 2.0, -3.0]})["y"].tolist() == [2, 3, -2]
    for fractions in ([1.5, 2, 3], [1, 2, np.nan]):
        with pytest.raises(InputError, match="got float64 with fractions for i, which takes int32"):
            package.predict({"i": fractions})
    for large in ([1, 2, 1 << 40], [1, 2, 1e30], [1, 2, -np.inf]):
        with pytest.raises(InputError, match=r"takes int32; give -2147483648…2147483647"):
            package.predict({"i": large})


class Accumulator(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(2, 4, dtype=torch.float16))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 2


def test_a_state_goes_on_from_call_to_call(convert):
    half = np.float16
    path = convert(
        Accumulator(),
        [(2, 4)],
        [ct.TensorType("x", shape=(2, 4), dtype=half)],
        outputs=[ct.TensorType("y", dtype=half)],
        states=[ct.StateType(ct.TensorType(shape=(2, 4), dtype=half), name="total")],
        minimum_deployment_target=TARGET,
    )
    package, whole = Package(path), np.arange(8).reshape(2, 4).astype(half)
    state, other = package.make_state(), package.make_state()
    for n in (1, 2, 3):
        np.testing.assert_array_equal(package.predict({"x": whole}, state)["y"], whole * 2 * n)
    np.testing.assert_array_equal(state.read_state("total"), whole * 3)
    np.testing.assert_array_equal(package.predict({"x": whole}, state=other)["y"], whole * 2)
    np.testing.assert_array_equal(package.predict({"x": whole})["y"], whole * 2)
    state.write_state("total", whole + 10)
    np.testing.assert_array_equal(package.predict({"x": whole}, state)["y"], (2 * whole + 10) * 2)
    with pytest.raises(InputError, match="no state 'cache'; there are total"):
        state.read_state("cache")
    with pytest.raises(InputError, match=r"shape \(4,\); give numbers of shape \(2, 4\)"):
        state.write_state("total", np.zeros(4))
    with pytest.raises(InputError, match="give what make_state"):
        package.predict({"x": whole}, state={})
    with pytest.raises(InputError, match="not a list"):
        package.predict([{"x": whole}], state)


def test_a_package_without_states_says_so(doubled):
    with pytest.raises(InputError, match="has no states"):
        Package(doubled).make_state()


@pytest.fixture
def two_functions(convert, tmp_path):
    """`twice` (the default) and `thrice`."""
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, factor in (("twice", 2), ("thrice", 3)):
        kind = ct.TensorType("x", shape=(2, 4))
        path = convert(
            lambda x, factor=factor: x * factor, [(2, 4)], [kind], name,
            minimum_deployment_target=TARGET,
        )  # fmt: skip
        descriptor.add_function(str(path), "main", name)
    descriptor.default_function_name = "twice"
    target = tmp_path / "both.mlpackage"
    ct.utils.save_multifunction(descriptor, str(target))
    return target


def test_functions_are_chosen_by_name(two_functions, mlmodel):
    package = Package(two_functions, precision="fp32")
    assert sorted(package.functions) == ["thrice", "twice"]
    np.testing.assert_array_equal(only(package.predict({"x": X})), X * 2)
    np.testing.assert_array_equal(only(package.predict({"x": X}, function="thrice")), X * 3)
    with predict_anywhere("fp32"):
        model = mlmodel(two_functions, function_name="thrice")
        np.testing.assert_array_equal(only(model.predict({"x": X})), X * 3)


def test_predict_of_coremltools_is_answered_within(doubled, mlmodel):
    model, before = mlmodel(doubled), ct.models.MLModel.predict
    with predict_anywhere("fp32"):
        np.testing.assert_array_equal(only(model.predict({"x": X})), X * 2)
        assert len(model.predict([{"x": X}, {"x": X}])) == 2
        with pytest.raises(InputError, match="has no states"):
            model.make_state()
    assert ct.models.MLModel.predict is before


def test_predict_comes_back_after_an_error(doubled, mlmodel):
    before = ct.models.MLModel.predict
    with pytest.raises(InputError, match="needs the input x"), predict_anywhere():
        mlmodel(doubled).predict({})
    assert ct.models.MLModel.predict is before


def test_without_coremltools_and_torch_a_package_runs_and_its_models_cannot(doubled):
    code = (
        "import sys\n"
        "for name in ('coremltools', 'torch'): sys.modules[name] = None\n"
        "from mobile_runtime import InputError, Package, predict_anywhere\n"
        f"print(Package({str(doubled)!r}).predict({{'x': [[1] * 4] * 2}}))\n"
        "try:\n"
        "    with predict_anywhere(): pass\n"
        "except InputError as error: print(error)\n"
    )
    done = run_python("-c", code, timeout=60)
    assert "[2., 2., 2., 2.]" in done.stdout, done.stderr
    assert "coremltools is not installed, and predict_anywhere answers its models" in done.stdout


@pytest.mark.parametrize("labels", [["cat", "dog", "bird"], [7, 8, 9]], ids=["text", "integer"])
def test_a_classifier_gives_its_label_and_the_probabilities(labels, convert):
    path = convert(
        lambda x: x.softmax(-1),
        [(1, 3)],
        [ct.TensorType("x", shape=(1, 3))],
        classifier_config=ct.ClassifierConfig(labels, predicted_feature_name="animal"),
    )
    package, logits = Package(path, precision="fp32"), np.array([[0.5, 2, -1]], np.float32)
    interface = package.describe().model.functions["main"]
    assert interface.label == "animal"
    outputs = package.predict({"x": logits})
    expected = torch.tensor(logits).softmax(-1)[0].tolist()
    assert outputs["animal"] == labels[1] and type(outputs["animal"]) is type(labels[1])
    shares = outputs[interface.probabilities]
    assert list(shares) == labels
    np.testing.assert_allclose(list(shares.values()), expected, rtol=1e-6)
