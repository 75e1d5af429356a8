"""Graph + stream of weights -> one `.mlpackage`.

The program is built first, without weights; the weights are then appended to the weight file one
by one as they arrive, so memory holds one of them. Same input, same bytes: names and identifiers
are derived, never random.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.backend.mil.helper import (
    create_file_value_tensor,
    types_to_proto_primitive,
)
from coremltools.converters.mil.backend.mil.load import CoreMLProtoExporter, MILProtoExporter
from coremltools.converters.mil.mil import Function as MilFunction
from coremltools.converters.mil.mil import Program

from export.backends.base import Specs, WeightStream
from export.backends.coreml.blob import BlobWriter
from export.backends.coreml.ops import MIL_DTYPES, CoreMLOps
from export.backends.coreml.placeholders import Placeholders
from export.graphs.graph import Function, Graph

TARGET = ct.target.iOS18  # states, multifunction packages and grouped lookup tables need it
_AUTHOR = "com.apple.CoreML"
_WEIGHT_FILE = "@model_path/weights/weight.bin"


def write_package(graph: Graph, specs: Specs, weights: WeightStream, path: Path) -> None:
    """Write `path` (a new folder)."""
    placeholders = Placeholders()
    program = build_program(graph, specs, placeholders)
    check_state_writes(graph, program)
    data = path / "Data" / _AUTHOR
    (data / "weights").mkdir(parents=True)
    blob = data / "weights" / "weight.bin"
    offsets = {}
    with BlobWriter(blob) as writer:
        for parameter, weight in weights:
            for tensor in placeholders.tensors.pop(parameter.name).values():
                values = tensor.extract(weight)
                offsets[tensor.weight_id] = writer.append(
                    values, tensor.data_type, tensor.padding_bits
                )
    assert not placeholders.tensors, f"no weights came for {sorted(placeholders.tensors)}"
    model = _Exporter(program, offsets).model()
    (data / "model.mlmodel").write_bytes(model.SerializeToString(deterministic=True))
    _write_manifest(path)


def build_program(graph: Graph, specs: Specs, placeholders: Placeholders) -> Program:
    """The MIL program of all functions, with placeholders for weights."""
    program = Program()
    for function in graph.functions:
        mb.name_count.clear()  # names depend only on this function
        program.add_function(function.name, _build_function(graph, function, specs, placeholders))
    program.default_function_name = graph.functions[-1].name
    program.export_as_multifunction = len(graph.functions) > 1
    return program


def _build_function(
    graph: Graph, function: Function, specs: Specs, placeholders: Placeholders
) -> MilFunction:
    inputs: dict[str, Any] = {
        spec.name: mb.placeholder(shape=spec.shape, dtype=MIL_DTYPES[spec.dtype])
        for spec in function.inputs
    }
    for state in graph.states:
        dtype = MIL_DTYPES[state.dtype]
        inputs[state.name] = mb.state_tensor_placeholder(shape=state.shape, dtype=dtype)
    with MilFunction(inputs, opset_version=TARGET) as mil:
        outputs = function.body(CoreMLOps(specs, placeholders), mil.inputs)
        named = []
        for spec in function.outputs:
            value = outputs[spec.name]
            assert value.shape == spec.shape, f"{function.name}.{spec.name}: {value.shape}"
            value.name = spec.name
            named.append(value)
        mil.set_outputs(named)
    return mil


def check_state_writes(graph: Graph, program: Program) -> None:
    """Check that every slice_update reaches a state: a lost write would show only in decode."""
    for name, function in program.functions.items():
        updates = [op for op in function.operations if op.op_type == "slice_update"]
        writes = {
            op.inputs["value"].name
            for op in function.operations
            if op.op_type == "coreml_update_state"
        }
        lost = [op.name for op in updates if op.outputs[0].name not in writes]
        expected = 2 * len(graph.blocks) if graph.states else 0
        assert not lost and len(writes) == expected, (
            f"{graph.name}.{name}: cache writes lost {lost}, {len(writes)} of {expected} written"
        )


class _Exporter(MILProtoExporter):  # type: ignore[misc]
    """Serialises the program; constants with a weight id point into the finished weight file."""

    def __init__(self, program: Program, offsets: dict[str, int]) -> None:
        super().__init__(program, weights_dir="", specification_version=TARGET)
        self._offsets = offsets

    def get_milproto_value(self, var: Any) -> Any:
        if var.op.weight_id is None:
            return super().get_milproto_value(var)
        return create_file_value_tensor(
            file_name=_WEIGHT_FILE,
            offset=self._offsets[var.op.weight_id],
            dim=var.shape,
            data_type=types_to_proto_primitive(var.sym_type.get_primitive()),
        )

    def create_file_value(self, var: Any) -> Any:
        raise AssertionError(f"constant {var.name} is no parameter, yet too large to stay inline")

    def model(self) -> Any:
        """The whole model description."""
        exporter = CoreMLProtoExporter(
            self.prog,
            self.export(),
            predicted_feature_name=None,
            predicted_probabilities_name=None,
            classifier_config=None,
            convert_to="mlprogram",
            convert_from="milinternal",
            specification_version=TARGET,
        )
        return exporter.export(TARGET)


def _write_manifest(path: Path) -> None:
    """The package's own Manifest.json; identifiers are derived from the names."""
    items = {
        "model.mlmodel": "CoreML Model Specification",
        "weights": "CoreML Model Weights",
    }
    entries = {
        _identifier(name): {
            "author": _AUTHOR,
            "description": description,
            "name": name,
            "path": f"{_AUTHOR}/{name}",
        }
        for name, description in items.items()
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": _identifier("model.mlmodel"),
    }
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=4) + "\n", encoding="utf-8")


def _identifier(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{_AUTHOR}/{name}")).upper()
