"""Rules about element types, and numbers that half precision does not hold."""

from __future__ import annotations

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array
from mobile_runtime.mlprogram.program import BlobTensor, Operation
from validation.doctor.rule import Places, Theme
from validation.doctor.view import FunctionView, in_words

THEME = Theme("N", "Numbers")
_HALF_MOST = 65_504.0
_HALF_NORMAL = 2.0**-14  # smaller values are subnormal
_HALF_LEAST = 2.0**-25  # smaller values round to zero
_NOT_COMPUTED = ("cast", "read_state", "write_state", "identity")
_NORMS = ("layer_norm", "instance_norm", "l2_norm", "batch_norm")


@THEME.operation(
    1,
    "computed in float32",
    severity="warning",
    effect="leaves",
    source="neural_engine_rules.md of apple/coreai-models; hollance/neural-engine",
    confidence="high",
    remedy="convert with compute_precision=FLOAT16; compute in the app what needs more",
)
def _float32(op: Operation, view: FunctionView) -> str:
    is_wide = any(p.dtype == "float32" for p in op.outputs) and op.type not in _NOT_COMPUTED
    return f"gives float32 {in_words(op.outputs[0].shape)}" if is_wide else ""


@THEME.operation(
    2,
    "a float32 island in a float16 program",
    severity="warning",
    effect="leaves",
    source="coreai-model-zoo#36: a Python number in the traced module makes a float32 constant",
    confidence="high",
    remedy="write constants in the module's own type; write silu as x * sigmoid(x)",
)
def _island(op: Operation, view: FunctionView) -> str:
    if op.type != "cast" or op.outputs[0].dtype != "float32":
        return ""
    port = view.port(op, "x")
    ends = {spec.name for spec in view.function.outputs}
    inside = port is not None and port.dtype == "float16" and op.outputs[0].name not in ends
    users = view.users.get(op.outputs[0].name, ())
    return f"widens {port.name} for {users[0].type}" if inside and port and users else ""


@THEME.function(
    3,
    "integers of 64 bits",
    severity="error",
    effect="risky",
    source="coremltools: ML Programs compute with int32; Anemll, 0seba and ExecuTorch pass int32",
    confidence="high",
    remedy="make indices and positions int32 inputs",
)
def _int64(view: FunctionView) -> Places:
    for spec in view.function.inputs:
        if spec.dtype in ("int64", "uint64"):
            yield spec.name, f"is {spec.dtype}"
    for op in view.operations:
        if op.type != "classify" and any(p.dtype in ("int64", "uint64") for p in op.outputs):
            yield op.name, f"gives {op.outputs[0].dtype}"


@THEME.operation(
    4,
    "minus infinity as a constant",
    severity="warning",
    effect="risky",
    source="neural_engine_rules.md of apple/coreai-models (−40000); no difference on a Mac",
    confidence="medium",
    remedy="mask with −1e4",
)
def _infinite(op: Operation, view: FunctionView) -> str:
    for key in sorted(op.inputs):
        values = _floats(op, key, view)
        if values is not None and np.isinf(values).any():
            return f"{key} has {'−' if np.isneginf(values).any() else ''}∞"
    return ""


@THEME.operation(
    5,
    "a constant beyond float16",
    severity="error",
    effect="risky",
    source="cactus#734: a mask of −1e9 is infinite in float16",
    confidence="high",
    remedy="mask with −1e4; scale other constants to at most 65,504",
)
def _beyond(op: Operation, view: FunctionView) -> str:
    for key in sorted(op.inputs):
        values = _floats(op, key, view)
        if values is None or not values.size:
            continue
        most = np.abs(np.where(np.isfinite(values), values, 0)).max()
        if most > _HALF_MOST:
            return f"{key} has {values.ravel()[np.abs(values).argmax()]:g}"
    return ""


@THEME.operation(
    6,
    "the square of activations in float16",
    severity="warning",
    effect="risky",
    source="Anemll, CoreML-LLM, 0seba (RMSNORM_PATCHING.md): x² overflows from 256 on",
    confidence="high",
    remedy="normalize with layer_norm over [x, −x], which cannot overflow, and take the first half",
)
def _squares(op: Operation, view: FunctionView) -> str:
    if not op.outputs or op.outputs[0].dtype != "float16":
        return ""
    if op.type == "reduce_sum_square":
        return f"sums squares of {in_words(view.shape(op, 'x'))}" if not _scaled(op, view) else ""
    summed = any(f.type in ("reduce_mean", "reduce_sum") for f in view.followers(op, ()))
    if not _is_square(op, view) or not summed or _scaled(op, view):
        return ""
    return f"squares {in_words(view.shape(op, 'x'))}"


@THEME.operation(
    7,
    "a norm that is scaled by the largest value",
    severity="warning",
    effect="risky",
    source="coremltools#2821 and #2822: eps grows by the square of that value, 4–6 % error",
    confidence="medium",
    remedy="normalize with layer_norm over [x, −x]; or multiply eps by 1 / max²",
)
def _scaled_norm(op: Operation, view: FunctionView) -> str:
    if not _is_square(op, view) or not _scaled(op, view):
        return ""
    averaged = [f for f in view.followers(op, ()) if f.type == "reduce_mean"]
    after = [f for mean in averaged for f in view.followers(mean, ()) if f.type == "add"]
    return "is divided by its largest value before eps is added" if after else ""


@THEME.operation(
    8,
    "a reciprocal root of values that float16 holds as subnormal",
    severity="warning",
    effect="risky",
    source="FluidAudio#679: rsqrt of a subnormal float16 is infinite on the Neural Engine",
    confidence="medium",
    remedy="use an epsilon of 1e-4 or more, or layer_norm",
)
def _subnormal_root(op: Operation, view: FunctionView) -> str:
    if op.type != "rsqrt" or op.outputs[0].dtype != "float16":
        return ""
    added = view.made.get(view.named(op, "x"))
    inner = 0.0
    if added is not None and added.type == "add":
        inner = max(view.number(added, key) or 0 for key in ("x", "y"))
    eps = max(view.number(op, "epsilon") or 0, inner)
    return f"of values from {eps:.3g} on" if eps < _HALF_NORMAL else ""


@THEME.operation(
    9,
    "an epsilon that is zero in float16",
    severity="error",
    effect="risky",
    source="the least float16 is 6e-8; a row of zeros is then divided by zero",
    confidence="high",
    remedy="use an epsilon of 1e-6 or more",
)
def _no_epsilon(op: Operation, view: FunctionView) -> str:
    if not op.outputs or op.outputs[0].dtype != "float16":
        return ""
    eps = view.number(op, "epsilon")
    lost = op.type in _NORMS and eps is not None and eps < _HALF_LEAST
    return f"epsilon {eps:g}" if lost else ""


@THEME.operation(
    10,
    "an epsilon that float16 rounds by more than 1 %",
    severity="note",
    effect="risky",
    source="1e-6 is stored as 1.0133e-6",
    confidence="high",
    remedy="compare a row of tiny variance with the original, or use an epsilon of 1e-5 or more",
)
def _rounded_epsilon(op: Operation, view: FunctionView) -> str:
    eps = view.number(op, "epsilon")
    if (
        op.type not in _NORMS
        or eps is None
        or op.outputs[0].dtype != "float16"
        or not _HALF_LEAST <= eps < _HALF_NORMAL
    ):
        return ""
    meant = float(f"{eps:.0e}")  # of the stored value: the published one has a digit or two
    wrong = abs(float(np.float16(meant)) / meant - 1)
    return (
        f"epsilon {meant:.0e} is stored as {float(np.float16(meant)):.5g}" if wrong > 0.01 else ""
    )


@THEME.operation(
    11,
    "softplus",
    severity="warning",
    effect="risky",
    source="Anemll/anemll-forge, M6: gives 0 for inputs above about 11 in float16",
    confidence="medium",
    remedy="write it as max(x, 0) + log(1 + exp(−|x|))",
)
def _softplus(op: Operation, view: FunctionView) -> str:
    found = op.type in ("softplus", "softplus_parametric")
    return f"of {in_words(view.shape(op, 'x'))}" if found else ""


@THEME.operation(
    12,
    "log(1 + exp(x)), which overflows",
    severity="error",
    effect="risky",
    source="exp(11.1) is above 65,504; Anemll/anemll-forge saw softplus end there",
    confidence="high",
    remedy="write it as max(x, 0) + log(1 + exp(−|x|))",
)
def _log_exp(op: Operation, view: FunctionView) -> str:
    if op.type != "log" or op.outputs[0].dtype != "float16":
        return ""
    added = view.made.get(view.named(op, "x"))
    if added is None or added.type != "add":
        return ""
    makers = [view.made.get(view.named(added, key)) for key in ("x", "y")]
    exps = [maker for maker in makers if maker is not None and maker.type == "exp"]
    return "of 1 + exp(x)" if exps and not all(_bounded(exp, view) for exp in exps) else ""


def _bounded(exp: Operation, view: FunctionView) -> bool:
    """Whether its argument is −|x| or cut off."""
    passing = ("mul", "sub", "cast")
    return view.behind(exp, "x", passing) in ("abs", "relu", "minimum", "clip", "relu6")


@THEME.operation(
    13,
    "a constant that is no number",
    severity="error",
    effect="risky",
    source="coremltools#2669: up to 9.0 a sentinel beyond float16 becomes NaN",
    confidence="high",
    remedy="convert again with a later coremltools, or clip the constant before",
)
def _nan(op: Operation, view: FunctionView) -> str:
    for key in sorted(op.inputs):
        values = _floats(op, key, view)
        if values is not None and np.isnan(values).any():
            return f"{key} is not a number"
    return ""


def _floats(op: Operation, key: str, view: FunctionView) -> Array | None:
    """Constants that are no weights: written in place, or added to scores before a softmax."""
    constant = view.constant(op, key)
    if constant is None or isinstance(constant, str):
        return None
    if isinstance(constant, BlobTensor):
        masks = op.type in ("add", "select", "sub", "where") and any(
            f.type in ("softmax", "scaled_dot_product_attention", "add", "reduce_max")
            for f in view.followers(op)
        )
        if not masks and op.type not in ("select", "maximum", "minimum", "fill"):
            return None
    values = view.values(op, key)
    return values if values is not None and values.dtype.kind == "f" else None


def _is_square(op: Operation, view: FunctionView) -> bool:
    if op.type == "square":
        return True
    if op.type == "mul":
        return bool(view.named(op, "x")) and view.named(op, "x") == view.named(op, "y")
    return op.type == "pow" and view.number(op, "y") == 2


def _scaled(op: Operation, view: FunctionView) -> bool:
    """Whether what is squared was divided by a maximum before."""
    maker = view.made.get(view.named(op, "x"))
    if maker is None or maker.type not in ("real_div", "mul"):
        return False
    passing = ("add", "inverse", "maximum", "abs", "cast", "identity")
    return view.behind(maker, "y", passing) in ("reduce_max", "reduce_log_sum_exp")
