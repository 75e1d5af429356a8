"""Small PyTorch modules, converted by coremltools and saved as packages of anyone's."""

from __future__ import annotations

import json
import logging

import pytest

logging.getLogger("coremltools").setLevel(logging.ERROR)
ct = pytest.importorskip("coremltools")
torch = pytest.importorskip("torch")


class Apply(torch.nn.Module):
    """A module that applies a function of its inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


@pytest.fixture(scope="module")
def convert(tmp_path_factory):
    """convert(function or module, example shapes, inputs, name, **options) -> path of a package in
    float32, for iOS 17 if `minimum_deployment_target` says nothing else."""

    def run(function, shapes, inputs, name="model", **options):
        module = function if isinstance(function, torch.nn.Module) else Apply(function)
        traced = torch.jit.trace(module.eval(), tuple(torch.zeros(shape) for shape in shapes))
        path = tmp_path_factory.mktemp("converted") / f"{name}.mlpackage"
        model = ct.convert(
            traced,
            inputs=inputs,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
            **{"minimum_deployment_target": ct.target.iOS17} | options,
        )
        model.save(str(path))
        return path

    return run


@pytest.fixture
def mlmodel():
    """mlmodel(path, **options) -> coremltools' own model of a package, which Linux does not run."""
    return lambda path, **options: ct.models.MLModel(str(path), skip_model_load=True, **options)


@pytest.fixture
def as_package(tmp_path):
    """as_package(spec) -> a package folder whose model is `spec`, of whatever kind."""

    def run(spec, name="any"):
        path = tmp_path / f"{name}.mlpackage"
        model = path / "Data/com.apple.CoreML/model.mlmodel"
        model.parent.mkdir(parents=True)
        model.write_bytes(spec.SerializeToString())
        entry = {"path": "com.apple.CoreML/model.mlmodel", "name": model.name, "author": "a"}
        content = {"rootModelIdentifier": "root", "itemInfoEntries": {"root": entry}}
        (path / "Manifest.json").write_text(json.dumps(content))
        return path

    return run
