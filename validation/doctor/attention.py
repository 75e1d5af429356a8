"""Rules about attention."""

from __future__ import annotations

from math import prod

from mobile_runtime.mlprogram.program import Operation
from validation.doctor.rule import Theme
from validation.doctor.view import FunctionView, in_words

THEME = Theme("A", "Attention")
_FUSED = "scaled_dot_product_attention"
_LONG = 2048
_IOS26 = 10  # specification version


@THEME.operation(
    1,
    "fused attention",
    severity="warning",
    effect="leaves",
    source="neural_engine_rules.md of apple/coreai-models: no fused path; CoreML-LLM: wrong on it",
    confidence="high",
    remedy="write matmul, add, softmax, matmul for each head; ExecuTorch won 10–15 % by it",
)
def _fused(op: Operation, view: FunctionView) -> str:
    return f"of {in_words(view.shape(op, 'query'))}" if op.type == _FUSED else ""


@THEME.operation(
    2,
    "fused attention of ten or more in a batch",
    severity="error",
    effect="risky",
    source="coremltools#2650: wrong on the GPU from a batch of 10 on",
    confidence="medium",
    remedy="give fewer at once, or write the attention out",
)
def _large_batch(op: Operation, view: FunctionView) -> str:
    shape = view.shape(op, "query")
    large = op.type == _FUSED and len(shape) > 2 and prod(shape[:-3] or shape[:1]) >= 10
    return f"of {in_words(shape)}" if large else ""


@THEME.operation(
    3,
    "fused attention on system 26",
    severity="error",
    effect="risky",
    source="executorch#15833: the fused operation of iOS 26 fails; #16057 and #16144 write it out",
    confidence="high",
    remedy="write the attention out, or convert for iOS 18 and test on 26",
)
def _fused_26(op: Operation, view: FunctionView) -> str:
    recent = view.package.description.specification_version >= _IOS26
    return "in a package for iOS 26" if op.type == _FUSED and recent else ""


@THEME.operation(
    4,
    "keys or values that are repeated for their query heads",
    severity="warning",
    effect="risky",
    source="executorch#16057 and #16144: 10–15 % with the repetition gone",
    confidence="high",
    remedy="fold query heads into the length: (1, kv_heads, groups · S, head_dim)",
)
def _repeated(op: Operation, view: FunctionView) -> str:
    if op.type != "matmul":
        return ""
    for key in ("x", "y"):
        maker = view.maker(view.named(op, key))
        if maker is not None and maker.type == "tile" and len(view.shape(op, key)) >= 3:
            return f"{key} is repeated to {in_words(view.shape(op, key))}"
    return ""


@THEME.operation(
    5,
    "attention over 2,048 places or more for one position",
    severity="note",
    effect="risky",
    source="CoreML-LLM, DECODE_STATE_LAYOUTS.md: half the context decoded 2.56 times as fast",
    confidence="medium",
    remedy="export the context that the app needs, or several contexts as functions",
)
def _long_context(op: Operation, view: FunctionView) -> str:
    shape = view.shape(op, "x")
    scores = op.type == "softmax" and view.behind(op, "x", ("add", "mul", "cast")) == "matmul"
    decodes = any(
        spec.shape and spec.shape[-1] == 1 and max(spec.shape) > 1 for spec in view.function.inputs
    )
    return f"over {in_words(shape)}" if scores and decodes and shape[-1] >= _LONG else ""
