"""Graphs: they use every tensor of the checkpoint, and keep to what the Neural Engine takes."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from coremltools.converters.mil.mil import types

from export.backends import BACKENDS
from export.backends.coreml.package import build_program
from export.backends.coreml.placeholders import Placeholders
from export.config import ExportConfig
from export.graphs.parameters import KEY_QUERY
from export.models.preprocessor import max_view_patches
from export.models.tensors import EMBED_TOKENS, POSITION_EMBEDDING, tensor_shapes
from export.plan import build_plan
from export.releases import DEFAULT_RELEASE, ModelDescription
from mobile_runtime.errors import InputError

# Tensors that the host reads; no graph holds them.
TABLES = {EMBED_TOKENS, POSITION_EMBEDDING}
# Tensors that reach the graphs through the folded queries alone.
FOLDED = {"resampler.query", "resampler.ln_q.weight", "resampler.ln_q.bias"}
PER_HEAD = "llm.lm_head."
OPERATIONS = {
    "add",
    "concat",
    "const",
    "constexpr_blockwise_shift_scale",
    "constexpr_lut_to_dense",
    "conv",
    "coreml_update_state",
    "gelu",
    "layer_norm",
    "matmul",
    "mul",
    "read_state",
    "reshape",
    "silu",
    "slice_by_index",
    "slice_update",
    "softmax",
    "transpose",
}
VARIANTS = [
    {"quant": "int4-fast"},
    {"quant": "int4-fast", "kv_cache": "io"},
    {"quant": "int8", "override": {"vision_encoder": "int8", "resampler": "int6"}},
    {"quant": "none", "context_length": 16_384, "prefill_length": 512},
]


NAMES = ["int4-fast", "io", "int8", "long"]


class Recorder:
    """A tensor source that notes what is read."""

    def __init__(self, source):
        self.source, self.read_names = source, set()

    def read(self, name):
        self.read_names.add(name)
        return self.source.read(name)

    def read_rows(self, name, begin, end):
        self.read_names.add(name)
        return self.source.read_rows(name, begin, end)


def loaded(tiny_model):
    """Parameter name -> values, and the names of the tensors that were read for them."""
    recorder = Recorder(tiny_model.checkpoint)
    values = {}
    for graph in tiny_model.plan.graphs:
        for parameter in graph.parameters:
            values[parameter.name] = np.asarray(parameter.load(recorder), np.float32)
    return values, recorder.read_names


def test_graphs_and_tables_read_every_tensor_of_the_checkpoint(tiny):
    model = tiny()
    _, names = loaded(model)
    assert names | TABLES == set(model.checkpoint.tensors)
    assert not names & TABLES


def test_every_value_of_every_tensor_stands_in_a_parameter(tiny):
    """Up to shape, order of axes and the fold of the resampler's queries."""
    model = tiny()
    values, _ = loaded(model)
    size = model.model.decoder.hidden_size
    expected = {}
    for name in set(model.checkpoint.tensors) - TABLES - FOLDED:
        tensor = np.asarray(model.checkpoint.read(name), np.float32)
        if name == "resampler.proj":
            expected[name] = tensor.T
        elif name.startswith("resampler.attn.in_proj_"):
            expected[f"resampler.attn.v_proj.{name.split('_')[-1]}"] = tensor[2 * size :]
        elif name == "llm.lm_head.weight":
            expected["llm.lm_head.00.weight"] = tensor
        else:
            expected[name] = tensor.reshape(len(tensor), -1) if tensor.ndim == 4 else tensor
    assert values.keys() - {KEY_QUERY} == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(values[name], tensor, err_msg=name)


def test_parameters_of_the_published_model_have_the_checkpoints_shapes(
    published_plan, published_model
):
    shapes = tensor_shapes(published_model)
    derived = {KEY_QUERY, "resampler.attn.v_proj.weight", "resampler.attn.v_proj.bias"}
    found = {}
    for graph in published_plan().graphs:
        found |= {p.name: p.shape for p in graph.parameters}
    heads = {name for name in found if name.startswith(PER_HEAD)}
    stored = found.keys() - heads - derived
    through = {"resampler.attn.in_proj_weight", "resampler.attn.in_proj_bias", PER_HEAD + "weight"}
    assert stored == shapes.keys() - TABLES - FOLDED - through
    for name in stored:
        flat = shapes[name] if len(shapes[name]) < 4 else (shapes[name][0], 3 * 14 * 14)
        assert found[name] == flat, name
    assert sorted(heads) == [f"{PER_HEAD}{n:02d}.weight" for n in range(16)]
    assert {found[name] for name in heads} == {(9504, 4096)}
    assert found[KEY_QUERY] == (2048, 4096)


def test_packages_share_no_parameter_but_the_final_norm(published_plan):
    seen = {}
    for graph in published_plan(quant="none").graphs:
        for parameter in graph.parameters:
            seen.setdefault(parameter.name, []).append(graph.name)
    twice = {name: graphs for name, graphs in seen.items() if len(graphs) > 1}
    assert twice == {"llm.model.norm.weight": ["lm_head_01of02", "lm_head_02of02"]}


@pytest.fixture(scope="session")
def programs(published_plan):
    """programs(flags) -> (graph, MIL program) of every package of the published model."""

    @cache
    def build(index):
        plan = published_plan(**VARIANTS[index])
        return [(g, build_program(g, plan.specs, Placeholders())) for g in plan.graphs]

    return lambda flags: build(VARIANTS.index(flags))


def operations(programs):
    """(package.function, operation) for all, weights and small constants included."""
    for graph, program in programs:
        for name, function in program.functions.items():
            for operation in function.operations:
                yield f"{graph.name}.{name}", operation


@pytest.fixture(params=VARIANTS, ids=NAMES)
def published_operations(request, programs):
    return list(operations(programs(request.param)))


def test_only_operations_that_the_neural_engine_runs(published_operations):
    used = {operation.op_type for _, operation in published_operations}
    assert used <= OPERATIONS
    assert {"conv", "matmul", "softmax", "layer_norm"} <= used


def test_every_tensor_has_rank_4_at_most_and_no_dimension_above_16384(published_operations):
    checked = 0
    for where, operation in published_operations:
        for output in operation.outputs:
            shape = output.shape
            is_table = operation.op_type == "const" and output.name.endswith("_lut")
            assert all(isinstance(size, int) for size in shape), (where, output.name, shape)
            assert max(shape, default=0) <= 16_384, (where, output.name, shape)
            assert len(shape) <= 4 or is_table, (where, output.name, shape)
            checked += len(shape) == 4
    assert checked > 1000


def test_activations_are_float16_and_indices_int32(published_operations):
    for where, operation in published_operations:
        if operation.op_type == "const":
            continue
        for output in operation.outputs:
            assert output.dtype in (types.fp16, types.int32), (where, output.name, output.dtype)
            is_index = output.dtype == types.int32
            assert not is_index or len(output.shape) == 1, (where, output.name)


def test_constants_are_finite_and_small_unless_they_are_weights(published_operations):
    for where, operation in published_operations:
        if operation.op_type != "const" or operation.weight_id is not None:
            continue
        value = np.asarray(operation.outputs[0].val)
        assert value.size <= 8, (where, operation.name)
        if value.dtype.kind == "f":
            assert value.dtype == np.float16, (where, operation.name)
            assert np.isfinite(value).all(), (where, operation.name)
        assert value.dtype not in (np.int64, np.float64), (where, operation.name)


@pytest.mark.parametrize("flags", VARIANTS, ids=NAMES)
def test_inputs_outputs_and_states_are_those_of_the_specification(programs, flags):
    for graph, program in programs(flags):
        for function in graph.functions:
            built = program.functions[function.name]
            given = {name: tuple(var.shape) for name, var in built.inputs.items()}
            assert given == {s.name: s.shape for s in (*function.inputs, *graph.states)}
            outputs = [(var.name, tuple(var.shape)) for var in built.outputs]
            assert outputs == [(s.name, s.shape) for s in function.outputs]


@pytest.mark.parametrize("flags", VARIANTS, ids=NAMES)
def test_states_are_aligned_and_of_rank_4(published_plan, flags):
    plan = published_plan(**flags)
    context = flags.get("context_length", 2048)
    for graph in plan.graphs:
        expected = graph.role == "decoder" and flags.get("kv_cache", "state") == "state"
        assert len(graph.states) == int(expected)
        for state in graph.states:
            assert state.shape == (2 * len(graph.blocks), 8, context, 128)
            assert state.dtype == "float16"
            assert state.shape[2] % 32 == state.shape[3] % 32 == 0


@pytest.mark.parametrize("length", [1, 64])
def test_io_cache_has_mask_columns_for_the_cache_and_the_new_rows(published_plan, length):
    plan = published_plan(kv_cache="io")
    graph = next(graph for graph in plan.graphs if graph.role == "decoder")
    function = next(
        f for f in graph.functions if f.name == ("decode" if length == 1 else "prefill")
    )
    inputs = {spec.name: spec.shape for spec in function.inputs}
    outputs = {spec.name: spec.shape for spec in function.outputs}
    assert inputs["attention_mask"] == (1, 1, length, 2048 + length)
    assert inputs["key_value_cache"] == (18, 8, 2048, 128)
    assert outputs["new_key_value_rows"] == (18, 8, length, 128)
    assert "position" not in inputs


def test_resampler_has_a_function_for_each_number_of_frames(published_plan):
    graph = next(graph for graph in published_plan().graphs if graph.role == "resampler")
    assert [f.name for f in graph.functions] == [f"frames_{n}" for n in range(1, 7)]
    for n, function in enumerate(graph.functions, 1):
        shapes = [spec.shape for spec in function.inputs]
        assert shapes == [(1, 1152, 1, n * 1088), (1, 2048, 1, n * 1088)]
        assert function.outputs[0].shape == (1, 4096, 1, 64)


def test_every_cache_row_of_a_package_is_written_once(programs):
    for graph, program in programs(VARIANTS[0]):
        if graph.role != "decoder":
            continue
        for function in program.functions.values():
            updates = [op for op in function.operations if op.op_type == "slice_update"]
            rows = [int(op.begin.op.values[0].val[0]) for op in updates]
            assert rows == list(range(2 * len(graph.blocks)))


def test_vision_tower_cut_into_parts_chains(published_plan):
    from export.backends.coreml import CoreMLBackend

    class Small(CoreMLBackend):
        max_package_bytes = 640_000_000

    graphs = [g for g in published_plan(backend=Small()).graphs if g.role == "vision_encoder"]
    first, last = (graph.functions[0] for graph in graphs)
    assert [graph.name for graph in graphs] == ["vision_encoder_01of02", "vision_encoder_02of02"]
    assert [s.name for s in first.inputs] == ["patches", "position_embeddings", "attention_mask"]
    assert [s.name for s in first.outputs] == ["output_hidden_states"]
    assert [s.name for s in last.inputs] == ["hidden_states", "attention_mask"]
    assert [s.name for s in last.outputs] == ["image_features"]
    assert first.outputs[0].shape == last.inputs[0].shape


def test_parameter_counts_of_the_published_packages(published_plan):
    """Head: 16 · 9504 rows, the final norm; decoder: the body without that norm."""
    totals = {}
    for graph in published_plan().graphs:
        count = sum(parameter.size for parameter in graph.parameters)
        totals[graph.role] = totals.get(graph.role, 0) + count
    assert totals["decoder"] == 6_946_075_648 - 4096
    assert totals["lm_head"] == 16 * 9504 * 4096 + 4096
    assert totals["vision_encoder"] == 417_792_240 - 4900 * 1152
    unfolded = math.prod((12288, 4096)) + 12288 + math.prod((64, 4096)) + 2 * 4096
    folded = math.prod((2048, 4096)) + math.prod((4096, 4096)) + 4096
    assert totals["resampler"] == 88_907_776 - unfolded + folded


def test_io_cache_whose_mask_exceeds_the_dimension_limit_is_refused(published_plan):
    """The mask has context + prefill columns."""
    with pytest.raises(InputError, match="--context-length"):
        published_plan(kv_cache="io", context_length=16_384)


def test_views_whose_six_frames_exceed_the_dimension_limit_are_refused(
    published_model, published_preprocessing
):
    length = max_view_patches(896, 14)
    assert 6 * length > 16_384
    larger = replace(published_preprocessing, scale_resolution=896, max_patches=length)
    with pytest.raises(InputError):
        described = ModelDescription(DEFAULT_RELEASE, published_model, larger)
        build_plan(ExportConfig(), described, BACKENDS["coreml"])
