"""What is no package of an ML Program is refused by its right name, and described if it is one."""

import zipfile

import pytest

from mobile_runtime import InputError, Package, describe_package
from mobile_runtime.cli import main

ct = pytest.importorskip("coremltools")
torch = pytest.importorskip("torch")


def refused(path):
    with pytest.raises(InputError) as caught:
        Package(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def network():
    """A neural network, as iOS 14 had them."""
    traced = torch.jit.trace(torch.nn.Linear(4, 3).eval(), torch.zeros(2, 4))
    inputs = [ct.TensorType("x", shape=(2, 4))]
    model = ct.convert(traced, inputs=inputs, convert_to="neuralnetwork", skip_model_load=True)
    return model.get_spec()


def test_a_neural_network_is_named_with_what_to_do(network, as_package, tmp_path, capsys):
    package, file = as_package(network), tmp_path / "old.mlmodel"
    ct.utils.save_spec(network, str(file))
    for path in (package, file):
        said = refused(path)
        assert "is a neural network, not an ML Program; convert the original model" in said
        assert 'convert_to="mlprogram"' in said
    described = describe_package(package)
    assert not described.runs and described.model.specification_version == 4
    assert [f.name for f in described.model.functions["main"].inputs] == ["x"]
    assert main(["describe", str(package)]) == 0
    assert "a neural network, specification version 4 (iOS 13" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("treeEnsembleClassifier", "a tree ensemble that classifies"),
        ("supportVectorRegressor", "a support vector machine that regresses"),
        ("wordTagger", "a model of kind 'word tagger'"),
        ("visionFeaturePrint", "a model of kind 'vision feature print'"),
    ],
)
def test_every_kind_has_a_name(kind, words, as_package):
    spec = ct.proto.Model_pb2.Model(specificationVersion=3)
    getattr(spec, kind).SetInParent()
    assert f"is {words}, not an ML Program; only ML Programs" in refused(as_package(spec))


def test_every_kind_of_coremltools_is_known(as_package):
    for number, field in enumerate(ct.proto.Model_pb2.Model.DESCRIPTOR.oneofs[0].fields):
        if field.name == "mlProgram":  # an empty one has no function and is refused
            continue
        spec = ct.proto.Model_pb2.Model()
        getattr(spec, field.name).SetInParent()
        described = describe_package(as_package(spec, f"kind-{number}"))
        assert described.model.kind == field.name


def test_a_model_of_no_kind_is_refused(as_package):
    assert "is a model of no known kind" in refused(as_package(ct.proto.Model_pb2.Model()))


def test_other_files_and_folders_are_named(tmp_path):
    compiled = tmp_path / "model.mlmodelc"
    compiled.mkdir()
    (compiled / "model.mil").write_text("program(1.0)")
    assert "is a compiled model, which only Core ML reads; give the .mlpackage" in refused(compiled)
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "coremldata.bin").write_bytes(b"1")
    assert "is a compiled model" in refused(moved)
    archive = tmp_path / "model.mlpackage.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("Manifest.json", "{}")
    assert "is a file, and Core ML packages are folders; unpack it and give" in refused(archive)
    assert "does not exist; give the folder" in refused(tmp_path / "none.mlpackage")
    assert "has no Manifest.json; give the folder whose name" in refused(tmp_path)
    (tmp_path / "part.mlpackage").mkdir()
    assert f"give one of the packages in it, such as {tmp_path / 'part.mlpackage'}" in refused(
        tmp_path
    )


def test_a_file_that_is_no_model_is_damaged(tmp_path):
    (tmp_path / "bad.mlmodel").write_bytes(b"\xff\xff\xff")
    assert "it is damaged" in refused(tmp_path / "bad.mlmodel")


def test_all_missing_operations_are_named_at_once(convert, monkeypatch, capsys):
    from mobile_runtime.engines.mil.registry import OPERATIONS

    path = convert(
        lambda x: torch.relu(x @ x) + torch.sigmoid(torch.relu(x)),
        [(4, 4)],
        [ct.TensorType("x", shape=(4, 4))],
    )
    Package(path)
    monkeypatch.delitem(OPERATIONS, "relu")
    assert "does not have its operations relu (2 times)" in refused(path)
    monkeypatch.delitem(OPERATIONS, "sigmoid")
    assert "does not have its operations relu (2 times), sigmoid (1 times)" in refused(path)
    assert main(["describe", str(path)]) == 0
    assert "the interpreter does not have: 2 relu, 1 sigmoid" in capsys.readouterr().out
    described = describe_package(path)
    assert described.missing == {"relu": 2, "sigmoid": 1} and not described.runs
    assert described.operations["main"]["relu"] == 2
