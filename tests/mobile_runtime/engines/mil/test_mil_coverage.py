"""What coremltools can save, by its own registries, is what the interpreter has."""

from __future__ import annotations

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine, UnsupportedOperation
from mobile_runtime.engines.mil.constexpr import CONSTANTS
from mobile_runtime.engines.mil.coverage import is_known
from mobile_runtime.engines.mil.registry import OPERATIONS
from mobile_runtime.mlprogram.schema import Model

pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil.ops import defs  # noqa: F401 — fills the registry
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

INTERNAL = {"_const_symbolic"}  # a placeholder of the converter, which is never saved
# What the converter writes for operations of its dialects that have no core operation.
LOWERED = {"coreml_update_state": ("write_state", "read_state")}
VERSIONS = {
    (type, version.name): definition
    for type, versions in SSAOpRegistry.core_ops.items()
    if type not in INTERNAL
    for version, definition in versions.items()
}


def test_every_operation_that_can_be_saved_is_known():
    assert len({type for type, _ in VERSIONS}) >= 167
    saved = {type for type, _ in VERSIONS} | {name for pair in LOWERED.values() for name in pair}
    assert sorted(type for type in saved if not is_known(type)) == []


def test_every_input_of_every_version_is_known():
    """Blocks, which begin with an underscore, and what only describes a constant are no inputs."""
    unknown = [
        f"{type} of {version}: {name}"
        for (type, version), definition in VERSIONS.items()
        if type in OPERATIONS
        for name in definition.input_spec.input_types
        if not name.startswith("_") and name not in OPERATIONS[type].parameters
    ]
    assert unknown == []
    assert not set(CONSTANTS) & set(OPERATIONS)


def test_a_refusal_names_every_operation_that_is_missing(save):
    x = np.ones((1, 4), np.float32)
    package = save(lambda x: mb.relu(x=mb.tanh(x=mb.tanh(x=x))), {"x": x})
    path = package / "Data/com.apple.CoreML/model.mlmodel"
    model = Model.FromString(path.read_bytes())
    (block,) = model.mlProgram.functions["main"].block_specializations.values()
    for operation in block.operations:
        if operation.type in ("relu", "tanh"):
            operation.type = f"future_{operation.type}"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedOperation) as caught:
        MilEngine(package)
    assert str(caught.value) == (
        "test.mlpackage cannot be run: this interpreter does not have its operations "
        "future_tanh (2 times), future_relu (1 times); convert the model without them."
    )
