"""The plan: how blocks are cut into packages, and the packages of the published model."""

import itertools
import struct

import numpy as np
import pytest

from export.graphs.static.lm_head import lm_head_slices
from export.plan import count_forms, split_blocks
from export.quant.recipe import FLOAT16, QuantRecipe, QuantRule, QuantSpec
from mobile_runtime.bundle import read_manifest
from mobile_runtime.errors import InputError

LIMIT = 950_000_000


def names(plan, role):
    return [graph.name for graph in plan.graphs if graph.role == role]


def every_cut(sizes):
    """All ways to cut a list into consecutive, non-empty parts, as lists of sums."""
    inner = range(1, len(sizes))
    for count in range(len(sizes)):
        for cuts in itertools.combinations(inner, count):
            edges = [0, *cuts, len(sizes)]
            yield [sum(sizes[a:b]) for a, b in itertools.pairwise(edges)]


def test_blocks_are_cut_as_well_as_any_cut_can():
    random = np.random.default_rng(0)
    for _ in range(150):
        sizes = random.integers(1, 12, random.integers(1, 10)).tolist()
        limit = int(random.integers(max(sizes), 40))
        ranges = split_blocks(sizes, limit)
        assert [n for blocks in ranges for n in blocks] == list(range(len(sizes)))
        totals = [sum(sizes[n] for n in blocks) for blocks in ranges]
        best = min((len(cut), max(cut)) for cut in every_cut(sizes) if max(cut) <= limit)
        assert (len(totals), max(totals)) == best


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([5], 5, [range(0, 1)]),
        ([1] * 36, 10, [range(9 * n, 9 * n + 9) for n in range(4)]),
        ([0, 0, 3], 3, [range(0, 3)]),
    ],
)
def test_simple_cuts(sizes, limit, expected):
    assert split_blocks(sizes, limit) == expected


@pytest.mark.parametrize("kv_cache", ["state", "io"])
def test_int4_decoder_is_four_packages_of_nine_layers(published_plan, kv_cache):
    plan = published_plan(quant="int4-fast", kv_cache=kv_cache)
    assert [graph.name for graph in plan.graphs] == [
        "vision_encoder",
        "resampler",
        "decoder_01of04",
        "decoder_02of04",
        "decoder_03of04",
        "decoder_04of04",
        "lm_head",
    ]
    blocks = [graph.blocks for graph in plan.graphs if graph.role == "decoder"]
    assert blocks == [range(0, 9), range(9, 18), range(18, 27), range(27, 36)]


@pytest.mark.parametrize(("quant", "decoders", "heads"), [("int8", 9, 1), ("none", 18, 2)])
def test_wider_weights_make_more_packages(published_plan, quant, decoders, heads):
    plan = published_plan(quant=quant)
    assert len(names(plan, "decoder")) == decoders
    assert len(names(plan, "lm_head")) == heads


def test_head_of_two_packages_shares_the_slices(published_plan):
    plan = published_plan(quant="none")
    heads = [graph for graph in plan.graphs if graph.role == "lm_head"]
    assert [(graph.name, graph.blocks) for graph in heads] == [
        ("lm_head_01of02", range(0, 8)),
        ("lm_head_02of02", range(8, 16)),
    ]
    outputs = [spec.name for graph in heads for spec in graph.functions[0].outputs]
    assert outputs == [f"logits_{n:02d}" for n in range(16)]


@pytest.mark.parametrize("quant", ["int4-fast", "int8", "none"])
def test_every_package_of_the_published_model_stays_on_the_neural_engine(published_plan, quant):
    plan = published_plan(quant=quant)
    assert all(plan.package_bytes(graph) <= LIMIT for graph in plan.graphs)


def test_block_larger_than_a_package_is_refused(published_plan):
    from export.backends.coreml import CoreMLBackend

    class Small(CoreMLBackend):
        max_package_bytes = 50_000_000

    with pytest.raises(InputError, match="choose a recipe with fewer bits"):
        published_plan(quant="int8", backend=Small())


def test_form_that_the_backend_cannot_store_is_refused(published_plan):
    from export.backends.coreml import CoreMLBackend

    class OnlyTables(CoreMLBackend):
        forms = frozenset({"lut", "floats"})

    affine = QuantRecipe("affine", (QuantRule("*", QuantSpec("rows", 8)),))
    with pytest.raises(InputError, match=r"cannot store .* as rows; it takes floats, lut"):
        published_plan(backend=OnlyTables(), recipe=affine)


@pytest.mark.parametrize(
    ("vocab", "expected"),
    [
        (151_748, (16, 9504)),
        (151_936, (16, 9504)),
        (16_384, (1, 16_384)),
        (16_385, (2, 8224)),
        (268, (1, 288)),
        (1, (1, 32)),
    ],
)
def test_head_slices(vocab, expected):
    assert lm_head_slices(vocab) == expected


def test_head_slices_hold_any_vocabulary_within_the_dimension_limit():
    for vocab in range(1, 400_000, 379):
        count, rows = lm_head_slices(vocab)
        assert rows <= 16_384
        assert rows % 32 == 0
        assert vocab <= count * rows < vocab + 32 * count
        assert count & (count - 1) == 0


def blob_bytes(path):
    """Bytes of the data in a weight file, by walking through its entries."""
    content = path.read_bytes()
    (count,) = struct.unpack_from("<I", content)
    total, offset = 0, 64
    for _ in range(count):
        sentinel, _, size, start = struct.unpack_from("<IIQQ", content, offset)
        assert sentinel == 0xDEADBEEF
        total, offset = total + size, -(-(start + size) // 64) * 64
    assert offset == len(content)
    return total


@pytest.mark.parametrize("quant", ["int4-fast", "none"])
def test_planned_bytes_are_the_bytes_of_the_weight_file(make_bundle, tiny, quant):
    """An RMS norm's gain is stored with as many zeros behind it; the plan counts it once."""
    bundle, plan = make_bundle(quant), tiny(quant=quant, context_length=512).plan
    for graph, spec in zip(plan.graphs, read_manifest(bundle).graphs, strict=True):
        gains = ("layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight")
        zeros = sum(
            2 * p.size
            for p in graph.parameters
            if p.name.startswith("llm.") and p.name.endswith(gains)
        )
        blob = bundle / spec.path / "Data/com.apple.CoreML/weights/weight.bin"
        assert blob_bytes(blob) == plan.package_bytes(graph) + zeros, graph.name
        assert spec.weight_bytes == blob.stat().st_size


def test_stored_bytes_of_every_form():
    assert FLOAT16.stored_bytes((32, 10)) == 2 * 320
    assert QuantSpec("lut", 4, 16).stored_bytes((32, 10)) == 160 + 2 * 16 * 2
    assert QuantSpec("lut", 6, 8).stored_bytes((32, 10)) == 240 + 4 * 64 * 2
    assert QuantSpec("rows", 8).stored_bytes((32, 10)) == 320 + 32 * 2
    assert FLOAT16.stored_bytes((7,)) == 14


def test_forms_are_counted_for_the_reader():
    spec = QuantSpec("lut", 4, 16)
    counts = count_forms({"a": FLOAT16, "b": spec, "c": spec})
    assert counts == {"float16": 1, "4-bit lut g16 by kmeans": 2}
