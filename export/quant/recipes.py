"""The recipes that `--quant` names, and the parts that `--override` may change."""

from __future__ import annotations

from collections.abc import Mapping

from export.graphs.parameters import KEY_QUERY
from export.quant.recipe import QuantRecipe, QuantRule, QuantSpec
from mobile_runtime.bundle import InputError

EMBED_TOKENS = "llm.model.embed_tokens.weight"

# Groups of 8 to 16 rows are as fast on the Neural Engine as one table for the whole matrix.
_GROUP = 16
SPECS: Mapping[str, QuantSpec | None] = {
    "none": None,
    "int8": QuantSpec(8, _GROUP, "kmeans"),
    "int6": QuantSpec(6, _GROUP, "kmeans"),
    "int4": QuantSpec(4, _GROUP, "kmeans"),
}
_TABLE = QuantSpec(8, 1, "affine")  # embedding rows are read one at a time, each with its scale

PARTS: Mapping[str, str] = {
    "vision_encoder": "vpm.*",
    "resampler": "resampler.*",
    "decoder": "llm.model.layers.*",
    "lm_head": "llm.lm_head.*",
    "embed_tokens": EMBED_TOKENS,
}

# The vision tower stays in float16: quantizing it costs perception far more than it saves.
# The head keeps six bits under int4: it is one matrix in 37, and every token goes through it.
RECIPES: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "int8": {"decoder": "int8", "lm_head": "int8", "embed_tokens": "int8"},
    "int4": {"decoder": "int4", "lm_head": "int6", "embed_tokens": "int8"},
}


def build_recipe(name: str, overrides: Mapping[str, str]) -> QuantRecipe:
    """Recipe `name` with the precision of single parts replaced."""
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}; there are {', '.join(RECIPES)}.")
    for part, precision in overrides.items():
        if part not in PARTS or precision not in SPECS:
            raise InputError(
                f"cannot override {part!r} with {precision!r}; parts are {', '.join(PARTS)}, "
                f"precisions are {', '.join(SPECS)}."
            )
    if overrides.get("embed_tokens") in ("int6", "int4"):
        raise InputError("embed_tokens is a table read by rows: it takes none or int8.")
    chosen = {**RECIPES[name], **overrides}
    rules = [QuantRule(KEY_QUERY, None)]  # the host computes with these very values
    rules += [QuantRule(PARTS[part], _spec(part, chosen[part])) for part in PARTS if part in chosen]
    rules.append(QuantRule("*", None))
    label = "+".join([name, *(f"{part}={precision}" for part, precision in overrides.items())])
    return QuantRecipe(label, tuple(rules))


def _spec(part: str, precision: str) -> QuantSpec | None:
    return _TABLE if part == "embed_tokens" and precision == "int8" else SPECS[precision]
