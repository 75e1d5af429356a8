"""What a package holds and what a call gave, as the commands `describe` and `run` print it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from mobile_runtime.mlprogram.description import Feature
from mobile_runtime.mlprogram.model_file import kind_in_words

if TYPE_CHECKING:  # it brings the interpreter, which a command's help does without
    from mobile_runtime.package.described import PackageDescription

_BEST = 5  # labels of a classifier that are shown


def print_package(name: str, described: PackageDescription, console: Console) -> None:
    """Print the facts, a table of inputs, outputs and states, a table of weights, and the
    operations; of a pipeline, all of this for each model after it."""
    model = described.model
    console.print(
        f"{name}: {kind_in_words(model.kind)}, specification version "
        f"{model.specification_version} ({model.system})"
    )
    for key, text in model.metadata.items():
        console.print(f"{key}: {text}")
    console.print(_table(("function", "is", "name", "takes or gives"), _features(described)))
    if described.weights:
        rows = [
            (
                form.form,
                f"{form.values:,}",
                f"{form.bytes:,}",
                f"{8 * form.bytes / max(1, form.values):.2f}",
            )
            for form in described.weights
        ]
        console.print(_table(("weights", "values", "bytes", "bits/value"), rows))
    for function, counts in described.operations.items():
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        console.print(f"operations of {function}: {listed or 'none'}")
    for part, inner in described.models.items():
        console.print()
        print_package(part, inner, console)
    if described.missing:
        listed = ", ".join(f"{count} {kind}" for kind, count in described.missing.items())
        console.print(f"the interpreter does not have: {listed}")
    elif described.operations:
        console.print("the interpreter has all of these operations")
    elif described.refused:
        console.print(described.refused)
    if described.damage:
        console.print(described.damage)
    elif described.weights:
        console.print("the weight files hold all of these weights")


def _features(described: PackageDescription) -> Iterator[tuple[str, ...]]:
    for name, function in described.model.functions.items():
        shown = f"{name} (default)" if name == described.model.default_function else name
        groups = (("input", function.inputs), ("output", function.outputs))
        for role, features in (*groups, ("state", function.states)):
            for feature in features:
                yield shown, role, feature.name, feature_in_words(feature)
                shown = ""


def feature_in_words(feature: Feature) -> str:
    """Such as "float32, 1 × 8…32" or "picture BGR, 224 × 224 (height × width)"."""
    what = feature.kind if feature.dtype is None else feature.dtype
    if feature.colour is not None:
        what = f"picture {feature.colour}"
    sizes = [feature.allowed] if feature.allowed else []
    if sizes and feature.kind == "picture":
        sizes = [f"{feature.allowed} (height × width)"]
    if feature.optional:
        sizes.append("optional" if feature.default is None else f"{feature.default:g} by default")
    return ", ".join([what, *sizes])


def print_outputs(outputs: Mapping[str, Any], console: Console) -> None:
    """Print a table with one row for each output of a call."""
    rows = [(name, *_value(value)) for name, value in outputs.items()]
    console.print(_table(("output", "is", "values"), rows))


def print_fallbacks(fallbacks: Mapping[str, int], console: Console) -> None:
    """Say which operations left the engine's device, if any did."""
    if fallbacks:
        listed = ", ".join(f"{count} {kind}" for kind, count in fallbacks.items())
        console.print(f"computed with numpy, since the engine has no form of them: {listed}")


def _value(value: Any) -> tuple[str, str]:
    if isinstance(value, Image.Image):
        return f"picture {value.mode}, {value.height} × {value.width}", ""
    if isinstance(value, dict):
        best = sorted(value.items(), key=lambda item: -item[1])[:_BEST]
        return f"{len(value)} classes", ", ".join(f"{label} {share:.4g}" for label, share in best)
    if not isinstance(value, np.ndarray):
        return "label", str(value)
    form = f"{value.dtype}, {' × '.join(map(str, value.shape))}"
    if value.size == 0:
        return form, "none"
    if value.size <= _BEST:
        return form, ", ".join(f"{number:.6g}" for number in value.ravel())
    numbers = (f"{name} {getattr(value, name)():.6g}" for name in ("min", "mean", "max"))
    return form, ", ".join(numbers)


def _table(columns: tuple[str, ...], rows: Any) -> Table:
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    return table
