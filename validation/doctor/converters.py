"""Rules about faults that a converter of the recorded version is known to have."""

from __future__ import annotations

from validation.doctor.rule import Places, Theme
from validation.doctor.view import FunctionView, PackageView, in_words
from validation.doctor.weight_forms import table_of

THEME = Theme("C", "Converters")
_DAMAGED = (9, 0)  # of coremltools
_TRACED_UP_TO = (2, 7)  # of PyTorch, with coremltools 9.0
_FORWARDS = ("identity", "cast")


@THEME.package(
    1,
    "tables of 4 bits written by coremltools 9.0",
    severity="warning",
    effect="risky",
    source="coremltools#2716: Qwen3-Embedding-0.6B has cosine 0.03 on the CPU",
    confidence="medium",
    remedy="convert with a later version, and compare with the original before shipping",
)
def _tables_of_nine(view: PackageView) -> Places:
    if view.converter != _DAMAGED:
        return
    for function in view.functions:
        for op in function.compressed:
            table = table_of(op, function)
            if table and table.entries == 16:
                yield op.name or op.outputs[0].name, f"{in_words(table.shape)} by coremltools 9.0"
                return


@THEME.package(
    2,
    "a PyTorch that coremltools 9.0 does not know",
    severity="note",
    effect="risky",
    source="coremltools#2610 and #2615; its _TORCH_MAX_VERSION",
    confidence="high",
    remedy="convert with PyTorch 2.7, or a later coremltools",
)
def _torch_of_nine(view: PackageView) -> Places:
    if view.converter == _DAMAGED and view.torch[:2] > _TRACED_UP_TO:
        yield "", f"PyTorch {'.'.join(map(str, view.torch))} with coremltools 9.0"


@THEME.function(
    3,
    "an output that is an input unchanged",
    severity="warning",
    effect="risky",
    source="coremltools drops x[:, tensor([1, 3])] = u (found by running converted packages)",
    confidence="medium",
    remedy="write the assignment with torch.where or torch.cat, and compare with the original",
)
def _unchanged(view: FunctionView) -> Places:
    given = {spec.name for spec in view.function.inputs}
    for name in view.function.block.outputs:
        source, maker = name, view.made.get(name)
        while maker is not None and maker.type in _FORWARDS:
            source = view.named(maker, "x")
            maker = view.made.get(source)
        if source in given:
            yield name, f"is the input {source}"
