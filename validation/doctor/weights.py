"""Rules about how weights are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import prod

from mobile_runtime.mlprogram.program import BlobTensor, Operation
from validation.doctor.rule import Places, Theme
from validation.doctor.view import COMPRESSED, FunctionView, PackageView, in_words
from validation.doctor.weight_forms import (
    dtype_of,
    each_compressed,
    name_of,
    part_of,
    shape_of,
    table_of,
)

THEME = Theme("W", "Weights")
_LARGE = 1 << 16  # values of a matrix whose storage matters
_DUPLICATES = 1 << 16  # bytes
_HASHED = 1 << 20
_OPT = "Apple's opt-opt1_3.md, iPhone 15 Pro, OPT-1.3B: "
_MATRIX_USERS = ("conv", "linear", "matmul", "conv_transpose", "einsum")


@THEME.package(
    1,
    "scales of blocks along the inputs",
    severity="error",
    effect="leaves",
    source="coreai-models#279: cosine 0.367 on the Neural Engine, 0.999 on the GPU; Apple's docs",
    confidence="high",
    remedy="palettize, or scale whole rows; blocks are a format of GPUs",
)
def _blocks(view: PackageView) -> Places:
    for function, op in each_compressed(view):
        if op.type != "constexpr_blockwise_shift_scale":
            continue
        scale = shape_of(op, "scale", function)
        if any(size > 1 for size in scale[1:]):
            yield name_of(op), f"{in_words(op.outputs[0].shape)} has scales {in_words(scale)}"


@THEME.package(
    2,
    "a table and scales of rows in one weight",
    severity="error",
    effect="risky",
    source="coremltools#2688: crashes macOS 26; #2777: corrupts weights that groups do not divide",
    confidence="high",
    remedy="palettize without enable_per_channel_scale; scale by a mul after the layer",
)
def _scaled_table(view: PackageView) -> Places:
    for function, op in each_compressed(view):
        for key in ("data", "lut", "indices"):
            part = part_of(op, key, function)
            maker = function.made.get(part) if isinstance(part, str) else None
            scaled = op.type == "constexpr_blockwise_shift_scale"
            if maker is not None and scaled and maker.type.startswith(f"{COMPRESSED}lut"):
                yield name_of(op), f"scales the table of {in_words(op.outputs[0].shape)}"


@THEME.package(
    3,
    "a table for fewer than 8 rows",
    severity="warning",
    effect="risky",
    source=f"{_OPT}groups of 8 rows 15.5 ms, 4 17.1, 2 30.7, 1 59.1 (float16 92.2)",
    confidence="high",
    remedy="use groups of 8 or 16 rows",
)
def _fine_tables(view: PackageView) -> Places:
    for function, op in each_compressed(view):
        table = table_of(op, function)
        if table and table.size == 1 and table.rows < 8 <= table.shape[0]:
            yield name_of(op), f"{in_words(table.shape)} has a table for every {_rows(table.rows)}"


@THEME.package(
    4,
    "a table for every 8 to 1,024 rows",
    severity="note",
    effect="risky",
    source="Anemll/anemll-forge, M6: one table and scales of rows 0.847 ms, groups of 8 1.244 ms, "
    "of 128 to 1,024 about 1.02",
    confidence="medium",
    remedy="if the quality allows it, use one table for the matrix and scale its rows",
)
def _grouped_tables(view: PackageView) -> Places:
    found = [
        (name_of(op), table)
        for function, op in each_compressed(view)
        if (table := table_of(op, function)) and 8 <= table.rows < table.shape[0]
    ]
    if found:
        yield found[0][0], f"{len(found)} weights, here a table for every {_rows(found[0][1].rows)}"


def _rows(count: int) -> str:
    return "row" if count == 1 else f"{count} rows"


@THEME.package(
    5,
    "indices of 3 or 6 bits",
    severity="note",
    effect="risky",
    source="Anemll/anemll-forge: the Neural Engine reads them like 4 and 8 bits",
    confidence="medium",
    remedy="expect the size of 6 bits and the speed of 8; 4 or 8 bits are read as they are",
)
def _odd_bits(view: PackageView) -> Places:
    for function, op in each_compressed(view):
        kind = dtype_of(op, "indices", function)
        if kind in ("uint3", "uint6") and table_of(op, function):
            yield name_of(op), f"{in_words(op.outputs[0].shape)} has indices of {kind}"


@THEME.package(
    6,
    "tables of vectors that the Neural Engine does not take",
    severity="warning",
    effect="leaves",
    source="Anemll/anemll-forge: vectors along output channels, one table per matrix",
    confidence="medium",
    remedy="use cluster_axis=0 and one table for the matrix, or tables of single numbers",
)
def _vectors(view: PackageView) -> Places:
    for function, op in each_compressed(view):
        table = table_of(op, function)
        if not table or table.size == 1:
            continue
        axis = function.number(op, "vector_axis")
        grouped = any(size > 1 for size in table.groups)
        if grouped or (axis not in (None, 0.0)) or table.entries > 256:
            along = "" if axis is None else f" along axis {int(axis)}"
            yield name_of(op), f"{table.entries} vectors of {table.size}{along}"


@THEME.package(
    7,
    "tables of integers",
    severity="note",
    effect="leaves",
    source="CoreML-LLM: with int8 entries 86.7 % of operations stayed, 92.9 % without; Apple's "
    "documentation has them on A17 Pro and M4",
    confidence="low",
    remedy="keep entries in float16",
)
def _integer_tables(view: PackageView) -> Places:
    for function, op in each_compressed(view):
        table = table_of(op, function)
        part = part_of(op, "lut", function)
        maker = function.made.get(part) if isinstance(part, str) else None
        if table and maker is not None:
            kind = dtype_of(maker, "data", function) or dtype_of(maker, "quantized_data", function)
            yield name_of(op), f"entries are {kind}"


@THEME.package(
    8,
    "a matrix that groups of 8 rows do not divide, left in float16",
    severity="warning",
    effect="risky",
    source="coremltools, _quantization_passes.py:920: skips it with a warning; a head of 151,748 "
    "rows takes 1.24 GB",
    confidence="high",
    remedy="pad its rows to a multiple of 32, or choose a group that divides",
)
def _indivisible(view: PackageView) -> Places:
    for name, tensor in _plain_among_compressed(view):
        if tensor.shape[0] % 8 and tensor.shape[0] > 8:
            yield name, f"{in_words(tensor.shape)} of {tensor.element.name}"


@THEME.package(
    9,
    "a matrix left in float16 beside compressed ones",
    severity="warning",
    effect="risky",
    source="coremltools, _quantization_passes.py: a weight that does not fit is skipped silently",
    confidence="high",
    remedy="name it in the recipe: compress it, or say that it stays",
)
def _left(view: PackageView) -> Places:
    for name, tensor in _plain_among_compressed(view):
        if not tensor.shape[0] % 8 or tensor.shape[0] <= 8:
            yield name, f"{in_words(tensor.shape)} of {tensor.element.name}"


def _plain_among_compressed(view: PackageView) -> Iterator[tuple[str, BlobTensor]]:
    """Large plain matrices of a package of which at least half is compressed."""
    compressed = sum(
        prod(op.outputs[0].shape)
        for function, op in each_compressed(view)
        if not any(user.type.startswith(COMPRESSED) for user in _users(op, function))
    )
    plain = dict(_plain_matrices(view))
    total = compressed + sum(prod(tensor.shape) for tensor in plain.values())
    if compressed * 2 >= total > 0:
        yield from plain.items()


def _users(op: Operation, view: FunctionView) -> tuple[Operation, ...]:
    return view.users.get(op.outputs[0].name, ())


def _plain_matrices(view: PackageView) -> Iterator[tuple[str, BlobTensor]]:
    seen = set()
    for function in view.functions:
        for op in function.all:
            value = op.attributes.get("val")
            if op.type != "const" or not isinstance(value, BlobTensor) or value.key in seen:
                continue
            multiplies = any(user.type in _MATRIX_USERS for user in _users(op, function))
            if multiplies and len(value.shape) > 1 and prod(value.shape) >= _LARGE:
                seen.add(value.key)
                if value.element.name in ("float16", "float32"):
                    yield name_of(op), value


@THEME.package(
    10,
    "the same weights twice",
    severity="warning",
    effect="risky",
    source="anemll-dedup: functions that do not share take 15–40 % more, at worst twice",
    confidence="medium",
    remedy="let functions share one constant, and merge them with save_multifunction",
)
def _duplicates(view: PackageView) -> Places:
    sizes: dict[tuple[str, int, tuple[int, ...]], list[tuple[BlobTensor, str]]] = {}
    for tensor, name in view.tensors.values():
        size = -(-prod(tensor.shape) * tensor.element.bits // 8)
        if size >= _DUPLICATES:
            kind = (tensor.element.name, size, tensor.shape)
            sizes.setdefault(kind, []).append((tensor, name))
    for (_, size, _), group in sizes.items():
        if len(group) == 1:
            continue
        seen: dict[bytes, tuple[BlobTensor, str]] = {}
        for tensor, name in group:
            look = digest_of(tensor, _HASHED)
            first = seen.setdefault(look, (tensor, name))
            if first[0] is not tensor and digest_of(tensor) == digest_of(first[0]):
                yield name, f"{size:,} bytes, the same as {first[1]}"


def digest_of(tensor: BlobTensor, most: int | None = None) -> bytes:
    """SHA-256 of a tensor's bytes, or of a look at `most` of them: begin, middle and end."""
    data = tensor.packed
    if most is None or data.size <= most:
        return hashlib.sha256(data.data).digest()
    digest, part = hashlib.sha256(), most // 3
    for start in (0, (data.size - part) // 2, data.size - part):
        digest.update(data[start : start + part].data)
    return digest.digest()


@THEME.package(
    11,
    "weights of 3 bits or less",
    severity="warning",
    effect="risky",
    source="CoreML-LLM: two and three bits without training give no language",
    confidence="low",
    remedy="use 4 bits or more, or train with the tables",
)
def _few_bits(view: PackageView) -> Places:
    for function, op in each_compressed(view):
        table = table_of(op, function)
        if table and table.size == 1 and table.entries <= 8 and prod(table.shape) >= _LARGE:
            yield name_of(op), f"{in_words(table.shape)} has {table.entries} entries"


@THEME.package(
    12,
    "4 bits for every 32 rows or more",
    severity="note",
    effect="risky",
    source="coreai-models#196: Qwen3-1.7B has infinite perplexity with 32 rows, 21.19 with 8",
    confidence="high",
    remedy="measure the quality; use 8 or 16 rows, or calibrated tables",
)
def _coarse(view: PackageView) -> Places:
    found = [
        (name_of(op), table)
        for function, op in each_compressed(view)
        if (table := table_of(op, function))
        and table.size == 1
        and table.entries == 16
        and table.rows >= 32
        and prod(table.shape) >= _LARGE
    ]
    if found:
        yield found[0][0], f"{len(found)} weights, here {_rows(found[0][1].rows)} for a table"


@THEME.package(
    13,
    "float32 weights",
    severity="warning",
    effect="leaves",
    source="neural_engine_rules.md of apple/coreai-models: the Neural Engine computes in float16",
    confidence="high",
    remedy="convert with compute_precision=FLOAT16: half the bytes",
)
def _wide_weights(view: PackageView) -> Places:
    for name, tensor in _plain_matrices(view):
        if tensor.element.name == "float32":
            yield name, in_words(tensor.shape)


@THEME.package(
    14,
    "functions of which only some are compressed",
    severity="warning",
    effect="risky",
    source="coremltools: a merged package cannot be compressed; each function has to be, before",
    confidence="medium",
    remedy="compress every function, then merge them",
)
def _partly(view: PackageView) -> Places:
    def share(function: FunctionView) -> bool:
        return bool(function.compressed)

    plain = [f.name for f in view.functions if not share(f) and _has_matrices(f)]
    if plain and any(share(f) for f in view.functions):
        yield plain[0], "has plain weights, and others have compressed ones"


def _has_matrices(view: FunctionView) -> bool:
    return any(
        op.type == "const"
        and isinstance(op.attributes.get("val"), BlobTensor)
        and len(op.outputs[0].shape) > 1
        and prod(op.outputs[0].shape) >= _LARGE
        for op in view.all
    )


@THEME.package(
    15,
    "activations of 8 bits",
    severity="note",
    effect="risky",
    source="Apple's opt-joint-compression.md: faster from A17 Pro and M4 on; CoreML-LLM: does not "
    "compile on an iPhone",
    confidence="low",
    remedy="test on the oldest device; keep a variant with activations of 16 bits",
)
def _activations(view: PackageView) -> Places:
    for function in view.functions:
        for op in function.operations:
            if op.type == "quantize":
                yield op.name, in_words(function.shape(op, "input"))
                return
