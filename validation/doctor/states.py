"""Rules about states: caches that a program keeps between calls."""

from __future__ import annotations

from collections.abc import Iterator

from mobile_runtime.mlprogram.program import ANY_SIZE, Operation
from validation.doctor.rule import Places, Theme
from validation.doctor.view import RESHAPING, FunctionView, PackageView, in_words

THEME = Theme("K", "States and key/value caches")
_GROWS = 2048
_FIRST_WITH_STATES = 9  # specification version of iOS 18
_PASSING = (*RESHAPING, "slice_update", "concat", "scatter_nd", "scatter", "select", "add", "mul")


@THEME.function(
    1,
    "three states or more",
    severity="error",
    effect="risky",
    source="CoreML-LLM, MLSTATE_PATTERN.md, iPhone 17 Pro: compiles, then fails at the first call",
    confidence="medium",
    remedy="join them into one state, (2 · layers, kv_heads, context, head_dim)",
)
def _many(view: FunctionView) -> Places:
    states = view.function.states
    if len(states) >= 3:
        yield states[0].name, f"has {len(states)} states"


@THEME.function(
    2,
    "a state whose last axes are not multiples of 32",
    severity="warning",
    effect="risky",
    source="coremltools#2631",
    confidence="medium",
    remedy="round the context and head_dim up to a multiple of 32, and mask what is unused",
)
def _unaligned(view: FunctionView) -> Places:
    for spec in view.function.states:
        if any(size > 1 and size % 32 for size in spec.shape[-2:]):
            yield spec.name, f"is {in_words(spec.shape)}"


@THEME.function(
    3,
    "a state that is not float16",
    severity="error",
    effect="risky",
    source="stateful-models.md of coremltools: states are float16",
    confidence="high",
    remedy="make it float16",
)
def _not_half(view: FunctionView) -> Places:
    for spec in view.function.states:
        if spec.dtype != "float16":
            yield spec.name, f"is {spec.dtype}"


@THEME.function(
    4,
    "a state of rank 5 or more",
    severity="warning",
    effect="leaves",
    source="mobius#67: writes into a cache of rank 5 are refused",
    confidence="high",
    remedy="fold layers into the first axis: (2 · layers, kv_heads, context, head_dim)",
)
def _deep(view: FunctionView) -> Places:
    for spec in view.function.states:
        if len(spec.shape) > 4:
            yield spec.name, f"is {in_words(spec.shape)}"


@THEME.operation(
    5,
    "a write into a cache that vanishes",
    severity="error",
    effect="risky",
    source="found by running converted programs: cache[:, :, i] = k is saved without its write",
    confidence="high",
    remedy="write the result back: coreml_update_state after slice_update",
)
def _lost(op: Operation, view: FunctionView) -> str:
    if op.type not in ("slice_update", "scatter_nd", "scatter"):
        return ""
    target = "x" if op.type == "slice_update" else "data"
    if view.behind(op, target, _PASSING) != "read_state":
        return ""
    ends = {spec.name for spec in view.function.outputs}
    return "" if _reaches(op, view, ends) else "its result is never written to the state"


def _reaches(op: Operation, view: FunctionView, ends: set[str]) -> bool:
    """Whether what an update makes is written to a state, or given back."""
    seen, left = set(), [op]
    while left:
        current = left.pop()
        for port in current.outputs:
            if port.name in ends and current is op:
                return True
            for user in view.users.get(port.name, ()):
                if user.type == "write_state":
                    return True
                passes = user.type in _PASSING and user.type not in ("slice_by_index", "add", "mul")
                if passes and id(user) not in seen:
                    seen.add(id(user))
                    left.append(user)
    return False


@THEME.package(
    6,
    "a state that no function writes",
    severity="error",
    effect="risky",
    source="a converter that loses the in-place write leaves exactly this",
    confidence="high",
    remedy="assign to a slice of the cache in forward, and convert with StateType",
)
def _never_written(view: PackageView) -> Places:
    written = {
        function.named(op, "input")
        for function in view.functions
        for op in function.operations
        if op.type == "write_state"
    }
    states = {s.name: s.shape for function in view.functions for s in function.function.states}
    for name, shape in states.items():
        if name not in written:
            yield name, f"{in_words(shape)} stays zero"


@THEME.operation(
    7,
    "a cache that is shifted and joined",
    severity="warning",
    effect="leaves",
    source="CoreML-LLM, MLSTATE_PATTERN.md: the compiler refuses it with −14",
    confidence="medium",
    remedy="write with slice_update at an int32 position of shape (1,)",
)
def _shifted(op: Operation, view: FunctionView) -> str:
    if op.type != "write_state":
        return ""
    maker = view.made.get(view.named(op, "data"))
    if maker is None or maker.type != "concat":
        return ""
    joined = (view.maker(name) for name in view.takes(maker))
    return "is a concat of itself" if any(m and m.type == "read_state" for m in joined) else ""


@THEME.function(
    8,
    "a cache that grows to 2,048 places or more",
    severity="error",
    effect="risky",
    source="coreai-models#124: on iOS the program is miscompiled there: wrong tokens at full speed",
    confidence="medium",
    remedy="allocate the cache at one static length, below 2,048 if it has to grow",
)
def _growing(view: FunctionView) -> Places:
    for feature in (*view.interface.inputs, *view.interface.states):
        for place in feature.ranges:
            grows = place.least != place.most and (place.most is None or place.most >= _GROWS)
            if grows and _is_cache(feature.name):
                yield feature.name, f"may grow to {place}"
                break


def _is_cache(name: str) -> bool:
    return any(word in name.lower() for word in ("cache", "past", "key", "value", "kv"))


@THEME.package(
    9,
    "a state below iOS 18",
    severity="error",
    effect="risky",
    source="stateful-models.md of coremltools: iOS 18 and macOS 15",
    confidence="high",
    remedy="convert with minimum_deployment_target=iOS18",
)
def _too_early(view: PackageView) -> Places:
    version = view.description.specification_version
    states = [s.name for function in view.functions for s in function.function.states]
    if states and version < _FIRST_WITH_STATES:
        yield states[0], f"specification version {version}"


@THEME.package(
    10,
    "a decoder that takes one position only",
    severity="note",
    effect="risky",
    source="neural_engine_rules.md of apple/coreai-models: errors add up over 50 tokens; use 64",
    confidence="medium",
    remedy="add a function that takes 64 positions at once, of the same weights and state",
)
def _one_position(view: PackageView) -> Places:
    stateful = [function for function in view.functions if function.function.states]
    if stateful and all(_takes_one(function) for function in stateful):
        yield stateful[0].name, "every function takes one position"


def _takes_one(view: FunctionView) -> bool:
    lengths = set(_update_lengths(view))
    return lengths == {1}


def _update_lengths(view: FunctionView) -> Iterator[int]:
    """Positions that each write of a cache has: the axis on which it is shorter than the state."""
    for op in view.operations:
        if op.type == "slice_update":
            cache, rows = view.shape(op, "x"), view.shape(op, "update")
            if len(cache) == len(rows) and len(cache) >= 3 and ANY_SIZE not in rows:
                yield rows[-2]


@THEME.package(
    11,
    "a cache in a state, without a way around it",
    severity="note",
    effect="risky",
    source="coremltools#2553 and mobius#77: not on the Neural Engine of an M5 Pro; Anemll, 0seba "
    "and CoreML-LLM run it on iPhones",
    confidence="medium",
    remedy="ship a variant whose cache is an input, and fall back to it when the state fails",
)
def _contested(view: PackageView) -> Places:
    for function in view.functions:
        if function.function.states:
            yield function.function.states[0].name, in_words(function.function.states[0].shape)
            return
