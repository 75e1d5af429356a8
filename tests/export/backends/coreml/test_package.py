"""Packages on disk: reproducible, accepted by coremltools, decoded by it to our own values."""

import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

ct = pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.frontend.milproto.load import load  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

from export.backends.coreml.package import build_program, check_state_writes  # noqa: E402
from export.backends.coreml.placeholders import Placeholders  # noqa: E402
from export.graphs.weights import load_weight  # noqa: E402
from export.quant.recipe import FLOAT16, QuantRecipe, QuantRule, QuantSpec  # noqa: E402
from mobile_runtime.bundle import read_manifest  # noqa: E402
from mobile_runtime.errors import InputError  # noqa: E402

PACKAGES = ("vision_encoder", "resampler", "decoder", "lm_head")


def files(folder):
    """Path inside the folder -> bytes."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_two_processes_write_the_same_bytes(command_runs):
    first, second = (files(run.output) for run in command_runs)
    assert len(first) > 15
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_package_written_twice_in_one_process_has_the_same_bytes(
    make_bundle, tiny, write_graph, tmp_path
):
    bundle, model = make_bundle(), tiny(context_length=512)
    for graph in reversed(model.plan.graphs):
        path = tmp_path / f"{graph.name}.mlpackage"
        write_graph(graph, model.plan.specs, model.checkpoint, path)
        assert files(path) == files(bundle / path.name), graph.name


@pytest.fixture(scope="module")
def loaded(make_bundle):
    """loaded(name, **flags) -> (specification, MIL program) as coremltools reads the package."""

    @cache
    def read(name, quant="int4-fast", kv_cache="state"):
        path = make_bundle(quant, kv_cache) / f"{name}.mlpackage"
        model = ct.models.MLModel(str(path), skip_model_load=True)
        spec = model.get_spec()
        program = load(
            spec,
            specification_version=spec.specificationVersion,
            file_weights_dir=model.weights_dir,
        )
        return spec, program

    return read


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("kv_cache", ["state", "io"])
def test_coremltools_reads_and_validates_the_package(loaded, make_bundle, name, kv_cache):
    spec, program = loaded(name, kv_cache=kv_cache)
    program.validate()
    assert spec.specificationVersion == 9  # iOS 18, macOS 15
    (graph,) = read_manifest(make_bundle("int4-fast", kv_cache)).graphs_of(name)
    assert program.functions.keys() == {function.name for function in graph.functions}
    for function in graph.functions:
        mil = program.functions[function.name]
        given = {name: tuple(var.shape) for name, var in mil.inputs.items()}
        assert given == {s.name: s.shape for s in (*function.inputs, *graph.states)}
        outputs = {var.name: tuple(var.shape) for var in mil.outputs}
        assert outputs == {s.name: s.shape for s in function.outputs}


ARRAY_TYPES = {"float16": 65552, "int32": 131104}  # MLMultiArrayDataType


def described(features):
    return {
        f.name: (tuple(f.type.multiArrayType.shape), f.type.multiArrayType.dataType)
        for f in features
    }


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("kv_cache", ["state", "io"])
def test_description_names_every_input_output_and_state(loaded, make_bundle, name, kv_cache):
    spec, _ = loaded(name, kv_cache=kv_cache)
    (graph,) = read_manifest(make_bundle("int4-fast", kv_cache)).graphs_of(name)
    several = {function.name: function for function in spec.description.functions}
    assert several.keys() == (
        {f.name for f in graph.functions} if len(graph.functions) > 1 else set()
    )
    for function in graph.functions:
        found = several.get(function.name, spec.description)
        for features, specs in ((found.input, function.inputs), (found.output, function.outputs)):
            expected = {s.name: (s.shape, ARRAY_TYPES[s.dtype]) for s in specs}
            assert described(features) == expected
        states = {f.name: tuple(f.type.stateType.arrayType.shape) for f in found.state}
        assert states == {s.name: s.shape for s in graph.states}


def test_default_function_is_the_one_that_decodes(loaded):
    assert loaded("decoder")[0].description.defaultFunctionName == "decode"


def dense_constants(program):
    """Constant's name -> what coremltools expands it to, of all functions."""
    found = {}
    for function in program.functions.values():
        for op in function.operations:
            if op.op_type.startswith("constexpr_"):
                found.setdefault(op.name, op.materialized_val_inference())
    return found


@pytest.mark.parametrize(
    ("name", "quant"), [("decoder", "int4-fast"), ("lm_head", "int4-fast"), ("decoder", "int8")]
)
def test_coremltools_expands_our_tables_to_our_values(loaded, tiny, name, quant):
    constants = dense_constants(loaded(name, quant)[1])
    model = tiny(quant=quant, context_length=512)
    (graph,) = (graph for graph in model.plan.graphs if graph.role == name)
    matrices = [p for p in graph.parameters if p.is_matrix]
    assert len(constants) == len(matrices) > 0
    for parameter in matrices:
        spec = model.plan.specs[parameter.name]
        ours = load_weight(parameter, model.checkpoint, spec).dequantize()
        theirs = constants["weight_" + parameter.name.replace(".", "_")]
        assert theirs.shape == (*parameter.shape, 1, 1)
        np.testing.assert_array_equal(theirs[:, :, 0, 0].astype(np.float32), ours)


def test_coremltools_expands_our_integers_to_our_values(
    tiny, published_plan, write_graph, tmp_path
):
    model = tiny(context_length=64, prefill_length=4)
    graph = model.plan.graphs[-1]
    rows = QuantSpec("rows", 8)
    specs = {p.name: rows if p.is_matrix else FLOAT16 for p in graph.parameters}
    path = write_graph(graph, specs, model.checkpoint, tmp_path / "affine.mlpackage")
    opened = ct.models.MLModel(str(path), skip_model_load=True)
    spec = opened.get_spec()
    program = load(spec, spec.specificationVersion, opened.weights_dir)
    (theirs,) = dense_constants(program).values()
    matrix = next(p for p in graph.parameters if p.is_matrix)
    weight = load_weight(matrix, model.checkpoint, rows)
    expected = weight.dequantize().astype(np.float16)  # the program's type
    np.testing.assert_array_equal(theirs[:, :, 0, 0], expected)


def file_values(operation):
    """What an operation holds in the weight file, by input or attribute."""
    values = dict(operation.attributes)
    for key, given in operation.inputs.items():
        values |= {key: given.arguments[0].value} if len(given.arguments) == 1 else {}
    return {key: v.blobFileValue.offset for key, v in values.items() if v.HasField("blobFileValue")}


def file_offsets(spec):
    """Function -> {value's name: offset in the weight file}."""
    return {
        name: {
            f"{op.outputs[0].name}/{key}": offset
            for (block,) in [function.block_specializations.values()]
            for op in block.operations
            for key, offset in file_values(op).items()
        }
        for name, function in spec.mlProgram.functions.items()
    }


@pytest.mark.parametrize(("name", "count"), [("decoder", 2), ("resampler", 6)])
def test_all_functions_refer_to_each_weight_at_one_offset(loaded, name, count):
    spec, _ = loaded(name)
    functions = list(file_offsets(spec).values())
    assert len(functions) == count
    assert len(functions[0]) > 10
    assert all(offsets == functions[0] for offsets in functions)
    assert len(set(functions[0].values())) == len(functions[0])


@pytest.mark.parametrize("name", PACKAGES)
def test_weight_file_holds_nothing_that_no_function_uses(loaded, make_bundle, name):
    blob = make_bundle() / f"{name}.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    stored = int.from_bytes(blob.read_bytes()[:4], "little")
    used = {
        offset for offsets in file_offsets(loaded(name)[0]).values() for offset in offsets.values()
    }
    assert stored == len(used)


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_manifest_names_the_files_that_are_there(make_bundle, name):
    package = make_bundle() / f"{name}.mlpackage"
    manifest = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
    entries = manifest["itemInfoEntries"]
    assert all((package / "Data" / entry["path"]).exists() for entry in entries.values())
    root = entries[manifest["rootModelIdentifier"]]
    assert root["path"] == "com.apple.CoreML/model.mlmodel"


@pytest.fixture
def state_graph(tiny):
    """The tiny decoder with its program, whole."""
    plan = tiny(context_length=64, prefill_length=4).plan
    graph = next(graph for graph in plan.graphs if graph.role == "decoder")
    return graph, plan.specs


def test_intact_cache_writes_pass(state_graph):
    graph, specs = state_graph
    check_state_writes(graph, build_program(graph, specs, Placeholders()))


@pytest.mark.parametrize("row", [0, 3])
def test_update_that_does_not_reach_the_state_is_noticed(state_graph, monkeypatch, row):
    from export.backends.coreml.ops import CoreMLOps

    kept = CoreMLOps.write_cache

    def forgetful(self, state, rows, index, position):
        if index != row:
            return kept(self, state, rows, index, position)
        _, heads, length, dim = rows.shape
        begin = np.array([index, 0, 0, 0], np.int32)
        end = np.array([index + 1, heads, length, dim], np.int32)
        updated = mb.slice_update(x=mb.read_state(input=state), update=rows, begin=begin, end=end)
        return self.cache_row(updated, index)

    monkeypatch.setattr(CoreMLOps, "write_cache", forgetful)
    graph, specs = state_graph
    program = build_program(graph, specs, Placeholders())
    with pytest.raises(AssertionError, match=r"cache writes lost"):
        check_state_writes(graph, program)


def test_layer_that_never_writes_is_noticed(state_graph, monkeypatch):
    from export.backends.coreml.ops import CoreMLOps

    monkeypatch.setattr(
        CoreMLOps,
        "write_cache",
        lambda self, state, rows, index, position: self.cache_row(
            mb.read_state(input=state), index
        ),
    )
    graph, specs = state_graph
    with pytest.raises(AssertionError, match="0 of 4 written"):
        check_state_writes(graph, build_program(graph, specs, Placeholders()))


def test_parameter_without_a_weight_is_noticed(state_graph, tmp_path):
    from export.backends.coreml.package import write_package

    graph, specs = state_graph
    with pytest.raises(AssertionError, match="no weights came"):
        write_package(graph, specs, iter(()), tmp_path / "empty.mlpackage")


@pytest.mark.parametrize("bits", [5, 7])
def test_width_that_core_ml_has_no_type_for_is_refused(published_plan, bits):
    recipe = QuantRecipe("odd", (QuantRule("*", QuantSpec("lut", bits, 16)),))
    plan = published_plan(recipe=recipe)
    with pytest.raises(InputError, match=rf"no {bits}-bit lookup tables .* use 1, 2, 3, 4, 6, 8"):
        build_program(plan.graphs[-1], plan.specs, Placeholders())


def test_placeholders_of_gigabytes_take_no_memory(make_parameter):
    huge = SimpleNamespace(name="w", shape=(1 << 14, 1 << 14), is_matrix=True)
    with ct.converters.mil.mil.Function({"x": mb.placeholder(shape=(1,), dtype=types.fp16)}):
        const = Placeholders().kernel(huge, FLOAT16)
    assert const.val.nbytes == 2 << 28
    assert const.val.strides == (0, 0, 0, 0)
