"""What a model says of itself: its functions' inputs, outputs and states, before anything runs.

In: the root message of a model. Out: plain dataclasses. A feature is what a caller gives or gets;
the program behind it sees arrays only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.model_file import kind_of

FeatureKind = Literal[
    "array", "picture", "number", "integer", "text", "dictionary", "sequence", "state", "unknown"
]
_KINDS: Mapping[str, FeatureKind] = {
    "multiArrayType": "array",
    "imageType": "picture",
    "doubleType": "number",
    "int64Type": "integer",
    "stringType": "text",
    "dictionaryType": "dictionary",
    "sequenceType": "sequence",
    "stateType": "state",
}
_ARRAY_TYPES = {
    65568: "float32",
    65600: "float64",
    131104: "int32",
    131080: "int8",
    65552: "float16",
}
Colour = Literal["RGB", "BGR", "grayscale", "grayscale float16", "unknown"]
_COLOURS: Mapping[int, Colour] = {10: "grayscale", 20: "RGB", 30: "BGR", 40: "grayscale float16"}
# Specification version -> the first systems that read it; macOS 10.13 came with iOS 11.
_SYSTEMS = {
    1: "iOS 11, macOS 10.13",
    2: "iOS 11.2, macOS 10.13.2",
    3: "iOS 12, macOS 10.14",
    4: "iOS 13, macOS 10.15",
    5: "iOS 14, macOS 11",
    6: "iOS 15, macOS 12",
    7: "iOS 16, macOS 13",
    8: "iOS 17, macOS 14",
    9: "iOS 18, macOS 15",
    10: "iOS 26, macOS 26",
}
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Range:
    """Sizes that an axis may have, both ends included; `most` is None without an upper bound."""

    least: int
    most: int | None

    def holds(self, size: int) -> bool:
        """Whether the axis may have this size."""
        return self.least <= size and (self.most is None or size <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"{self.least}…"
        return str(self.least) if self.least == self.most else f"{self.least}…{self.most}"


@dataclass(frozen=True)
class Feature:
    """One input, output or state. `dtype` and `default` are of arrays, `colour` of pictures.

    The axes of a picture are height and width. Its sizes are `shape`, one of `shapes`, or within
    `ranges`; an output whose size is known only when it runs has none of the three.
    """

    name: str
    kind: FeatureKind
    dtype: str | None = None
    colour: Colour | None = None
    shape: Sizes = ()
    ranges: tuple[Range, ...] = ()
    shapes: tuple[Sizes, ...] = ()
    optional: bool = False
    default: float | None = None
    text: str = ""

    def allows(self, shape: Sizes) -> bool:
        """Whether Core ML takes a value of this shape."""
        if self.shapes:
            return shape in self.shapes
        if self.ranges:
            same_rank = len(shape) == len(self.ranges)
            return same_rank and all(r.holds(n) for r, n in zip(self.ranges, shape, strict=True))
        return not self.shape or shape == self.shape

    @property
    def allowed(self) -> str:
        """The shapes that it may have, in words; empty if any."""
        if self.shapes:
            return " or ".join(map(_shape_in_words, self.shapes))
        if self.ranges:
            return _shape_in_words(self.ranges)
        return _shape_in_words(self.shape) if self.shape else ""


def _shape_in_words(shape: Iterable[object]) -> str:
    return " × ".join(map(str, shape))


@dataclass(frozen=True)
class Interface:
    """What one function takes and gives. `label` and `probabilities` are the outputs of a
    classifier, empty names otherwise."""

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    states: tuple[Feature, ...]
    label: str = ""
    probabilities: str = ""


@dataclass(frozen=True)
class ModelDescription:
    """The kind of a model (a field of Model), the version of its format, its functions by name,
    and what its author wrote of it."""

    kind: str
    specification_version: int
    functions: Mapping[str, Interface]
    default_function: str
    metadata: Mapping[str, str]

    def interface(self, function: str | None, where: str) -> Interface:
        """That of a function, of the default one if it is None. Raises `InputError`, which begins
        with `where`, for a name that no function has."""
        name = self.default_function if function is None else function
        if name not in self.functions:
            raise InputError(
                f"{where} has no function {name!r}; it has {', '.join(self.functions)}."
            )
        return self.functions[name]

    @property
    def system(self) -> str:
        """The first systems that open it."""
        return _SYSTEMS.get(self.specification_version, "newer systems than are known here")


def describe_model(message: Any) -> ModelDescription:
    """Read the description of the root message of a model, of any kind."""
    description = message.description
    functions = {item.name: _interface(item) for item in description.functions}
    if not functions:
        functions = {"main": _interface(description)}
    default = description.defaultFunctionName or "main"
    return ModelDescription(
        kind=kind_of(message),
        specification_version=message.specificationVersion,
        functions=functions,
        default_function=default if default in functions else next(iter(functions)),
        metadata=_metadata(description.metadata),
    )


def _interface(message: Any) -> Interface:
    """`message` is the description of a model, or of one of its functions."""
    return Interface(
        inputs=tuple(map(_feature, message.input)),
        outputs=tuple(map(_feature, message.output)),
        states=tuple(map(_feature, message.state)),
        label=message.predictedFeatureName,
        probabilities=message.predictedProbabilitiesName,
    )


def _feature(message: Any) -> Feature:
    type_ = message.type
    kind = _KINDS.get(type_.WhichOneof("Type") or "", "unknown")
    facts: dict[str, Any] = {}
    if kind == "array":
        facts = _array(type_.multiArrayType)
    elif kind == "picture":
        facts = _picture(type_.imageType)
    elif kind == "state":
        facts = _array(type_.stateType.arrayType)
    text = message.shortDescription
    return Feature(message.name, kind, optional=type_.isOptional, text=text, **facts)


def _array(array: Any) -> dict[str, Any]:
    default = array.WhichOneof("default")
    return {
        "dtype": _ARRAY_TYPES.get(array.dataType, "unknown"),
        "shape": tuple(array.shape),
        "ranges": tuple(map(_range, array.shapeRange.sizeRanges)),
        "shapes": tuple(tuple(item.shape) for item in array.enumeratedShapes.shapes),
        "default": getattr(array, default) if default else None,
    }


def _picture(image: Any) -> dict[str, Any]:
    sides = image.imageSizeRange
    has_ranges = image.WhichOneof("sizes") == "imageSizeRange"
    return {
        "colour": _COLOURS.get(image.colorSpace, "unknown"),
        "shape": (image.height, image.width),
        "ranges": (_range(sides.heightRange), _range(sides.widthRange)) if has_ranges else (),
        "shapes": tuple((size.height, size.width) for size in image.enumeratedSizes.sizes),
    }


def _range(message: Any) -> Range:
    """An upper bound below zero means that there is none."""
    most = message.upperBound
    return Range(message.lowerBound, most if most >= 0 else None)


def _metadata(message: Any) -> dict[str, str]:
    named = {
        "description": message.shortDescription,
        "version": message.versionString,
        "author": message.author,
        "license": message.license,
    }
    written = named | dict(sorted(message.userDefined.items()))
    return {key: text for key, text in written.items() if text}
