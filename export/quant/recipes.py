"""The recipes that `--quant` names, and the parts and precisions that `--override` takes, for each
family of storage forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from export.graphs.parameters import KEY_QUERY
from export.quant.recipe import (
    DENSE16,
    DENSE32,
    QuantRecipe,
    QuantRule,
    QuantSpec,
)
from mobile_runtime.errors import InputError

EMBED_TOKENS = "llm.model.embed_tokens.weight"
PARTS: Mapping[str, str] = {
    "vision_encoder": "vpm.*",
    "resampler": "resampler.*",
    "decoder": "llm.model.layers.*",
    "lm_head": "llm.lm_head.*",
    "embed_tokens": "llm.model.embed_tokens.*",
}
_ROWS = QuantSpec(8, 1, "affine")


@dataclass(frozen=True)
class Forms:
    """What a target's precisions mean and its recipes choose, by part.

    `dense` stores what no rule quantizes, vectors included; a part named in `by_rows` has one scale
    a row at eight bits and knows no other width.
    """

    precisions: Mapping[str, QuantSpec | None]
    recipes: Mapping[str, Mapping[str, str]]
    dense: QuantSpec | None
    by_rows: frozenset[str]


# Groups of 8 to 16 rows are as fast on the Neural Engine as one table for the whole matrix.
_GROUP = 16
# The vision tower stays in float16: quantizing it costs perception far more than it saves.
# The head keeps six bits under int4: it is one matrix in 37, and every token goes through it.
LOOKUP_TABLES = Forms(
    precisions={
        "none": None,
        "int8": QuantSpec(8, _GROUP, "kmeans"),
        "int6": QuantSpec(6, _GROUP, "kmeans"),
        "int4": QuantSpec(4, _GROUP, "kmeans"),
    },
    recipes={
        "none": {},
        "int8": {"decoder": "int8", "lm_head": "int8", "embed_tokens": "int8"},
        "int4": {"decoder": "int4", "lm_head": "int6", "embed_tokens": "int8"},
    },
    dense=None,
    # Embedding rows are read one at a time, each with its scale.
    by_rows=frozenset({"embed_tokens"}),
)
# Blocks of 32 run on every kernel of onnxruntime; those of 128 are a tenth faster and less exact.
# A tower of four bits is slower than one of floats: its kernels are made for single tokens.
BLOCKS = Forms(
    precisions={
        "none": DENSE32,
        "fp16": DENSE16,
        "int8": QuantSpec(8, 32, "block"),
        "int4": QuantSpec(4, 32, "block"),
        "int4b128": QuantSpec(4, 128, "block"),
        "int4a": QuantSpec(4, 32, "block", symmetric=False),
    },
    recipes={
        "none": {"embed_tokens": "fp16"},  # rows are looked up one at a time: never 32 bits
        "int8": {
            "vision_encoder": "fp16",
            "resampler": "fp16",
            "decoder": "int8",
            "lm_head": "int8",
            "embed_tokens": "int8",
        },
        "int4": {
            "vision_encoder": "fp16",
            "resampler": "fp16",
            "decoder": "int4",
            "lm_head": "int8",
            "embed_tokens": "int8",
        },
    },
    dense=DENSE32,
    by_rows=frozenset({"vision_encoder", "resampler", "embed_tokens"}),
)
_BY_ROWS = ("none", "fp16", "int8")


def build_recipe(
    name: str, overrides: Mapping[str, str], forms: Forms = LOOKUP_TABLES
) -> QuantRecipe:
    """Recipe `name` with the precision of single parts replaced."""
    if name not in forms.recipes:
        raise InputError(f"no recipe {name!r}; there are {', '.join(forms.recipes)}.")
    for part, precision in overrides.items():
        if part not in PARTS or precision not in forms.precisions:
            raise InputError(
                f"cannot override {part!r} with {precision!r}; parts are {', '.join(PARTS)}, "
                f"precisions are {', '.join(forms.precisions)}."
            )
        allowed = [p for p in _BY_ROWS if p in forms.precisions]
        if part in forms.by_rows and precision not in allowed:
            raise InputError(f"{part} takes no {precision}, only {' or '.join(allowed)}.")
    chosen = {**forms.recipes[name], **overrides}
    rules = [QuantRule(KEY_QUERY, forms.dense)]  # the host computes with these very values
    rules += [
        QuantRule(PARTS[part], _spec(part, chosen[part], forms)) for part in PARTS if part in chosen
    ]
    rules.append(QuantRule("*", forms.dense))
    label = "+".join([name, *(f"{part}={precision}" for part, precision in overrides.items())])
    return QuantRecipe(label, tuple(rules))


def _spec(part: str, precision: str, forms: Forms) -> QuantSpec | None:
    return _ROWS if part in forms.by_rows and precision == "int8" else forms.precisions[precision]
