"""Rules about operations that the Neural Engine does not run, or runs wrongly."""

from __future__ import annotations

from mobile_runtime.mlprogram.program import Operation
from validation.doctor.rule import Theme
from validation.doctor.view import FunctionView, in_words

THEME = Theme("O", "Operations")
_TABLE_ROWS = 16_384
_SEEN = "rf-detr#1495 (592 operations on the Neural Engine, 7 on the CPU)"


@THEME.operation(
    1,
    "topk",
    severity="warning",
    effect="leaves",
    source=_SEEN,
    confidence="high",
    remedy="sort in the app, or put it last, so that only the end leaves",
)
def _topk(op: Operation, view: FunctionView) -> str:
    return f"over {in_words(view.shape(op, 'x'))}" if op.type == "topk" else ""


@THEME.operation(
    2,
    "gather_along_axis",
    severity="warning",
    effect="leaves",
    source=_SEEN,
    confidence="high",
    remedy="gather in the app, or multiply with a mask",
)
def _gather_along(op: Operation, view: FunctionView) -> str:
    return f"from {in_words(view.shape(op, 'x'))}" if op.type == "gather_along_axis" else ""


@THEME.operation(
    3,
    "gather by indices that are not constant",
    severity="warning",
    effect="leaves",
    source="neural_engine_rules.md of apple/coreai-models; hollance/neural-engine; rf-detr#1495",
    confidence="high",
    remedy="look rows up in the app and give them as an input (positions, cos and sin)",
)
def _gather(op: Operation, view: FunctionView) -> str:
    if op.type != "gather" or not view.varies(op, "indices") or _is_embedding(op, view):
        return ""
    return f"from {in_words(view.shape(op, 'x'))}"


@THEME.operation(
    4,
    "gather_nd by indices that are not constant",
    severity="error",
    effect="risky",
    source="CoreML-LLM, PROBE_GEMMA4_VISION_ANE.md: gives zeros on the Neural Engine",
    confidence="medium",
    remedy="gather in the app, or multiply with a matrix of zeros and ones",
)
def _gather_nd(op: Operation, view: FunctionView) -> str:
    dynamic = op.type == "gather_nd" and view.varies(op, "indices")
    return f"from {in_words(view.shape(op, 'x'))}" if dynamic else ""


@THEME.operation(
    5,
    "scatter",
    severity="warning",
    effect="leaves",
    source="rf-detr#1495; mobius#67: a scatter into the cache is refused",
    confidence="high",
    remedy="write with slice_update at an int32 position, or let the app write",
)
def _scatter(op: Operation, view: FunctionView) -> str:
    found = op.type in ("scatter", "scatter_nd", "scatter_along_axis")
    return f"into {in_words(view.shape(op, 'data'))}" if found else ""


@THEME.operation(
    6,
    "a dilated convolution",
    severity="warning",
    effect="leaves",
    source="hollance/neural-engine; rf-detr#1495",
    confidence="high",
    remedy="use a larger kernel, or space_to_batch around a plain convolution; verify each",
)
def _dilated(op: Operation, view: FunctionView) -> str:
    if op.type not in ("conv", "conv_transpose"):
        return ""
    dilations = view.values(op, "dilations")
    wide = dilations is not None and any(int(n) > 1 for n in dilations.ravel())
    return f"dilations {in_words(map(int, dilations.ravel()))}" if wide else ""  # type: ignore[union-attr]


@THEME.operation(
    7,
    "a slice whose ends are not constant",
    severity="warning",
    effect="leaves",
    source="hollance/neural-engine; neural_engine_rules.md of apple/coreai-models",
    confidence="high",
    remedy="slice in the app, or write a mask",
)
def _slice(op: Operation, view: FunctionView) -> str:
    keys = ("begin", "end", "size")
    dynamic = op.type in ("slice_by_index", "slice_by_size") and any(
        view.varies(op, key) for key in keys
    )
    return f"from {in_words(view.shape(op, 'x'))}" if dynamic else ""


@THEME.operation(
    8,
    "a tile or an expanded axis that feeds topk or a gather",
    severity="warning",
    effect="leaves",
    source=f"{_SEEN}: the chain leaves with them",
    confidence="high",
    remedy="remove the operation that follows, and this one stays",
)
def _feeds(op: Operation, view: FunctionView) -> str:
    if op.type not in ("tile", "expand_dims"):
        return ""
    after = next(
        (
            f.type
            for f in view.followers(op)
            if f.type in ("topk", "gather_along_axis", "gather_nd")
        ),
        "",
    )
    return f"feeds {after}" if after else ""


@THEME.operation(
    9,
    "argmax",
    severity="note",
    effect="risky",
    source="coreai-torch#116: wrong on the GPU of system 27.0 without an error",
    confidence="low",
    remedy="return logits, and choose in the app",
)
def _argmax(op: Operation, view: FunctionView) -> str:
    found = op.type in ("reduce_argmax", "reduce_argmin")
    return f"over {in_words(view.shape(op, 'x'))}" if found else ""


@THEME.operation(
    10,
    "the embedding of tokens as a gather",
    severity="warning",
    effect="leaves",
    source="0seba/coremlmodels and CoreML-LLM map the table (1.2 GB for 151,748 rows)",
    confidence="high",
    remedy="ship the table as a file that the app maps into memory, and make embeddings an input",
)
def _embedding(op: Operation, view: FunctionView) -> str:
    return f"from {in_words(view.shape(op, 'x'))}" if _is_embedding(op, view) else ""


def _is_embedding(op: Operation, view: FunctionView) -> bool:
    shape = view.shape(op, "x")
    fixed = op.type == "gather" and not view.varies(op, "x") and view.varies(op, "indices")
    return fixed and len(shape) == 2 and shape[0] > _TABLE_ROWS


@THEME.operation(
    11,
    "sines and cosines of positions",
    severity="note",
    effect="risky",
    source="neural_engine_rules.md of apple/coreai-models; 0seba/coremlmodels",
    confidence="high",
    remedy="compute cos and sin of rotary positions in the app, in float32, and make them inputs",
)
def _rotary(op: Operation, view: FunctionView) -> str:
    if op.type not in ("sin", "cos"):
        return ""
    angles = op.type in ("sin", "cos") and view.behind(op, "x", ("concat", "cast", "reshape"))
    return "of a product with positions" if angles in ("mul", "matmul", "einsum") else ""


@THEME.operation(
    12,
    "nearest neighbours by a factor that gives no whole size",
    severity="note",
    effect="risky",
    source="PyTorch takes floor(i / factor), other rules differ from it: 15 dB for 8 × 1.7",
    confidence="medium",
    remedy="choose sizes of which one is a multiple of the other",
)
def _nearest(op: Operation, view: FunctionView) -> str:
    if op.type != "upsample_nearest_neighbor":
        return ""
    shape = view.shape(op, "x")
    for key, axis in (("scale_factor_height", -2), ("scale_factor_width", -1)):
        factor = view.number(op, key)
        if factor is not None and (shape[axis] * factor) % 1:
            return f"{shape[axis]} × {factor:g}"
    return ""


@THEME.operation(
    13,
    "a bilinear picture made smaller without smoothing",
    severity="note",
    effect="risky",
    source="coremltools drops antialias=True (found by running converted packages)",
    confidence="medium",
    remedy="make pictures smaller in the app, if the model was trained with antialias",
)
def _smaller(op: Operation, view: FunctionView) -> str:
    if op.type not in ("upsample_bilinear", "resize_bilinear", "resize"):
        return ""
    before, after = view.shape(op, "x")[-2:], op.outputs[0].shape[-2:]
    smaller = any(0 < a < b for a, b in zip(after, before, strict=False))
    return f"{in_words(before)} → {in_words(after)}" if smaller else ""
