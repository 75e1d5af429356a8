"""Rules about rank, sizes and layout of what flows through a program."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from mobile_runtime.mlprogram.description import Range
from mobile_runtime.mlprogram.program import ANY_SIZE, Operation, Port
from validation.doctor.rule import Places, Theme
from validation.doctor.view import FunctionView, PackageView, in_words

THEME = Theme("S", "Shapes")
_MOST_SIZE = 16_384
_LANE = 64  # bytes to which the Neural Engine aligns the last axis
_WORTH = 1 << 16  # values below which padding costs nothing that matters
_MOST_SHAPES = 128
_ITEMS = {"float16": 2, "float32": 4, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}
_RULES_DOC = "neural_engine_rules.md of apple/coreai-models"


def _first(op: Operation, view: FunctionView) -> Port | None:
    """The first result that is a tensor of the network: not of indices, not a state's."""
    if op.type in ("read_state", "write_state"):
        return None
    return next((p for p in op.outputs if p.dtype in ("float16", "float32")), None)


@THEME.operation(
    1,
    "a tensor of rank 5",
    severity="warning",
    effect="leaves",
    source=f"{_RULES_DOC} allows 5; mobius#67 and FluidAudio#679 saw rank 5 refused, rank 4 run",
    confidence="high",
    remedy="fold axes so that every tensor has at most four: (1, channels, 1, length)",
)
def _rank_five(op: Operation, view: FunctionView) -> str:
    port = _first(op, view)
    return f"gives {in_words(port.shape)}" if port and len(port.shape) == 5 else ""


@THEME.operation(
    2,
    "a tensor of rank 6 or more",
    severity="error",
    effect="leaves",
    source="CoreML-LLM: patches cut by a reshape to rank 10 crash the Neural Engine of the A18",
    confidence="medium",
    remedy="cut patches before the model, in the app (vImage, Accelerate)",
)
def _rank_six(op: Operation, view: FunctionView) -> str:
    port = _first(op, view)
    return f"gives {in_words(port.shape)}" if port and len(port.shape) > 5 else ""


@THEME.operation(
    3,
    "an axis above 16,384",
    severity="warning",
    effect="leaves",
    source="Anemll, 0seba/coremlmodels and smpanaro all split at it; maderix/ANE#26 reports 65,536",
    confidence="high",
    remedy="split the layer, such as a head of the vocabulary into slices of at most 16,384 rows",
)
def _long_axis(op: Operation, view: FunctionView) -> str:
    port = _first(op, view)
    return (
        f"gives {in_words(port.shape)}" if port and max(port.shape, default=0) > _MOST_SIZE else ""
    )


@THEME.function(
    4,
    "rows of an input or output that are not whole lines of 64 bytes",
    severity="note",
    effect="risky",
    source=f"ml-ane-transformers; {_RULES_DOC}: the last axis is aligned to 64 bytes",
    confidence="high",
    remedy="make the last axis a multiple of 32 float16 values; pad it and mask the rest",
)
def _unaligned_features(view: FunctionView) -> Places:
    for spec in (*view.function.inputs, *view.function.outputs):
        size = _ITEMS.get(spec.dtype, 0)
        last = spec.shape[-1] * size if spec.shape else 0
        if last > size and last % _LANE and prod(spec.shape) * size >= _WORTH:
            yield spec.name, f"{in_words(spec.shape)}: rows of {last} bytes"


@THEME.operation(
    5,
    "a last axis of one beside a long one",
    severity="note",
    effect="risky",
    source=f"{_RULES_DOC}: a singleton last axis takes up to 32 times the memory",
    confidence="high",
    remedy="put the sequence last, (1, channels, 1, length), and process several positions at once",
)
def _singleton(op: Operation, view: FunctionView) -> str:
    port = _first(op, view)
    if port is None or len(port.shape) < 2 or port.shape[-1] != 1:
        return ""
    long = max(port.shape) >= 32 and op.type in ("conv", "linear", "matmul")
    return f"gives {in_words(port.shape)}" if long else ""


@THEME.function(
    6,
    "a size that varies within a range",
    severity="warning",
    effect="leaves",
    source="flexible-inputs.md of coremltools; kasper0406/gemma-coreml-chat: CPU or GPU only",
    confidence="high",
    remedy="give it one static size, or enumerated shapes, or one function for each size",
)
def _flexible(view: FunctionView) -> Places:
    ranged = {f.name for f in view.interface.inputs if f.ranges and _truly(f.ranges)}
    for spec in view.function.inputs:
        listed = next((f.shapes for f in view.interface.inputs if f.name == spec.name), ())
        if spec.name in ranged or (ANY_SIZE in spec.shape and not listed):
            yield spec.name, f"takes {in_words(spec.shape)}"


def _truly(ranges: Iterable[Range]) -> bool:
    return any(r.least != r.most for r in ranges)


@THEME.package(
    7,
    "several functions, and sizes that vary",
    severity="warning",
    effect="risky",
    source="kasper0406/gemma-coreml-chat, benchmarks/multifunction_rangedim_bug.py: does not load",
    confidence="medium",
    remedy="use static shapes in packages of several functions",
)
def _flexible_functions(view: PackageView) -> Places:
    functions = view.functions
    if len(functions) > 1:
        for function in functions:
            for spec in function.function.inputs:
                if ANY_SIZE in spec.shape:
                    yield function.name, f"{spec.name} takes {in_words(spec.shape)}"


@THEME.function(
    8,
    "more than 128 enumerated shapes",
    severity="error",
    effect="risky",
    source="flexible-inputs.md of coremltools: at most 128",
    confidence="high",
    remedy="keep those that are used most, and pad to the next one",
)
def _many_shapes(view: FunctionView) -> Places:
    for feature in view.interface.inputs:
        if len(feature.shapes) > _MOST_SHAPES:
            yield feature.name, f"has {len(feature.shapes)} shapes"


@THEME.operation(
    9,
    "layer normalization beside enumerated shapes",
    severity="warning",
    effect="leaves",
    source="coremltools#1909: the layer normalizations ran on the CPU",
    confidence="high",
    remedy="give each shape a function of its own",
)
def _norm_enumerated(op: Operation, view: FunctionView) -> str:
    listed = [f for f in view.interface.inputs if len(f.shapes) > 1]
    if op.type != "layer_norm" or not listed:
        return ""
    return f"normalizes while {listed[0].name} has {len(listed[0].shapes)} shapes"


@THEME.operation(
    10,
    "a matrix product over a length that is padded by a third or more",
    severity="note",
    effect="risky",
    source="heads of 72 values in SigLIP2's tower; 64-byte lines (ml-ane-transformers)",
    confidence="medium",
    remedy="make head_dim and sequence lengths multiples of 32, or run this package on the GPU",
)
def _padded_product(op: Operation, view: FunctionView) -> str:
    if op.type != "matmul":
        return ""
    for key in ("x", "y"):
        last = (view.shape(op, key) or (0,))[-1]
        padded = -(-last // 32) * 32
        if last > 1 and padded >= last * 4 / 3 and prod(view.shape(op, key)) * 2 >= _WORTH:
            return f"{key} is {in_words(view.shape(op, key))}: {last} values take {padded}"
    return ""


@THEME.operation(
    11,
    "a convolution in three dimensions",
    severity="warning",
    effect="leaves",
    source="coreai-models#279 and CoreML-LLM: conv3d of patches breaks the region",
    confidence="high",
    remedy="cut patches in the app, and give them to a 1×1 convolution",
)
def _conv3d(op: Operation, view: FunctionView) -> str:
    if op.type in ("conv", "conv_transpose") and len(view.shape(op, "weight")) == 5:
        return f"takes {in_words(view.shape(op, 'x'))}"
    return ""


@THEME.operation(
    12,
    "a linear layer over rows instead of a 1×1 convolution",
    severity="note",
    effect="risky",
    source="ml-ane-transformers; smpanaro measured 20 % overall; newer systems map linear as well",
    confidence="medium",
    remedy="write it as conv with a weight (out, in, 1, 1) over (1, channels, 1, length)",
)
def _linear(op: Operation, view: FunctionView) -> str:
    wide = min(view.shape(op, "weight") or (0,)) >= 256
    return f"takes {in_words(view.shape(op, 'x'))}" if op.type == "linear" and wide else ""


@THEME.operation(
    13,
    "a shape that is computed when the model runs",
    severity="warning",
    effect="leaves",
    source=f"{_RULES_DOC}: static shapes only",
    confidence="high",
    remedy="trace with fixed sizes, so that the shape is a constant",
)
def _computed_shape(op: Operation, view: FunctionView) -> str:
    computed = op.type in ("reshape", "fill", "tile", "broadcast_to") and any(
        view.varies(op, key) for key in ("shape", "reps")
    )
    unknown = op.type in ("non_zero", "reshape") and any(ANY_SIZE in p.shape for p in op.outputs)
    given = any(ANY_SIZE in spec.shape for spec in view.function.inputs)
    return "its shape is known only when it runs" if computed or (unknown and not given) else ""


@THEME.operation(
    14,
    "a chain that cuts patches out of a picture",
    severity="warning",
    effect="leaves",
    source="coreai-models#279 and CoreML-LLM: patchify chains of reshapes break the region",
    confidence="high",
    remedy="cut patches in the app, and make them an input",
)
def _patchify(op: Operation, view: FunctionView) -> str:
    if op.type != "transpose" or len(view.shape(op, "x")) < 5:
        return ""
    maker = view.made.get(view.named(op, "x"))
    if maker is None or maker.type != "reshape" or view.named(maker, "x") in view.made:
        return ""
    return f"transposes {in_words(view.shape(op, 'x'))} of the input {view.named(maker, 'x')}"
