"""Writes minimal packages with coremltools' MIL builder, without passes that would repair them."""

import os

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.backend.mil.load import CoreMLProtoExporter, MILProtoExporter
from coremltools.converters.mil.mil import Function, Program, types

from export.backends.coreml.package import TARGET, _write_manifest

HALF, FLOAT, INT = types.fp16, types.fp32, types.int32
rng = np.random.default_rng(0)


def half(*shape):
    """Seeded float16 values."""
    return rng.normal(size=shape).astype(np.float16)


def given(*shape, dtype=HALF):
    """An input."""
    return mb.placeholder(shape=shape, dtype=dtype)


def state(*shape):
    """A state of float16."""
    return mb.state_tensor_placeholder(shape=shape, dtype=HALF)


def program(functions, target=TARGET):
    """A MIL program from name -> (inputs by name, body); a body takes inputs and gives values."""
    made = Program()
    for name, (inputs, body) in functions.items():
        with Function(dict(inputs), opset_version=target) as function:
            results = body(**function.inputs)
            results = results if isinstance(results, tuple) else (results,)
            function.set_outputs(list(results))
        made.add_function(name, function)
    made.default_function_name = next(iter(functions))
    made.export_as_multifunction = len(functions) > 1
    return made


def write(path, functions, target=TARGET, metadata=None, edit=None, size=None):
    """Write the package `path`; `edit` may change its message before. `size` is that of the weight
    file in bytes, holes at its end."""
    made = program(functions, target)
    data = path / "Data" / "com.apple.CoreML"
    (data / "weights").mkdir(parents=True)
    exporter = MILProtoExporter(
        made, weights_dir=str(data / "weights"), specification_version=target
    )
    message = CoreMLProtoExporter(
        made,
        exporter.export(),
        predicted_feature_name=None,
        predicted_probabilities_name=None,
        classifier_config=None,
        convert_to="mlprogram",
        convert_from="milinternal",
        specification_version=target,
    ).export(target)
    for key, text in (metadata or {}).items():
        message.description.metadata.userDefined[f"com.github.apple.coremltools.{key}"] = text
    if edit is not None:
        edit(message)
    if size is not None:
        os.truncate(data / "weights" / "weight.bin", size)
    (data / "model.mlmodel").write_bytes(message.SerializeToString())
    _write_manifest(path)
    return path
