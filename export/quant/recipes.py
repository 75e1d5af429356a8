"""The recipes that `--quant` names, and the precisions that `--override` takes, per family of
storage forms.

The release says which weights belong to a part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from export.quant.methods import FEEDBACK, METHODS
from export.quant.recipe import FLOAT16, FLOAT32, QuantRecipe, QuantRule, QuantSpec, Shape
from mobile_runtime.errors import InputError

CALIBRATED_RECIPES = (
    "int4",
    "int3",
)  # the recipes that are calibrated whether or not examples are given
UNCALIBRATED_RECIPE = "int4-fast"  # the one that never is
AUTOMATIC = "auto:"  # begins the name of a recipe with a budget, of which a calibration makes most
HEAD = "lm_head"  # the part that comes after the blocks
_BASE = "int4"  # the recipe that says how a budget's other parts are stored
_UNITS = ("bpw", "GB")
SHIPPED_EXAMPLES = "default"  # instead of a file: the examples that ship with the program
_ROWS = QuantSpec("rows", 8)


@dataclass(frozen=True)
class Budget:
    """What a recipe may spend: bits per weight of the calibrated matrices (`bpw`), with tables and
    scales, or gigabytes of all weights (`GB`)."""

    amount: float
    unit: str


def budget_of(recipe: str) -> Budget | None:
    """The budget that a recipe's name gives, such as auto:4.25bpw; None for any other. Raises
    `InputError` if it is none."""
    if not recipe.startswith(AUTOMATIC):
        return None
    given = recipe.removeprefix(AUTOMATIC)
    for unit in _UNITS:
        amount = given.removesuffix(unit)
        if amount != given and amount.replace(".", "", 1).isdecimal() and float(amount) > 0:
            return Budget(float(amount), unit)
    raise InputError(
        f"--quant {recipe} is no budget; give such as auto:4.25bpw (bits per weight of the "
        "decoder) or auto:3.2GB (all weights)."
    )


@dataclass(frozen=True)
class Precisions:
    """The precisions of a target: `named` ones, and `recipes` that choose one of them per part.

    `floats` stores what no rule quantizes, vectors included. A part in `by_rows` has one scale per
    row at eight bits and allows no other integers. Under a budget, each calibrated matrix gets one
    of the precisions `mixed`; a target without these takes no budget.
    """

    named: Mapping[str, QuantSpec]
    recipes: Mapping[str, Mapping[str, str]]
    floats: QuantSpec
    by_rows: frozenset[str]
    mixed: tuple[str, ...] = ()

    def parts(self, recipe: str) -> Mapping[str, str]:
        """The precision of each part by recipe `recipe`. Raises `InputError` if it is unknown."""
        name = recipe if budget_of(recipe) is None or not self.mixed else _BASE
        if name not in self.recipes:
            known = [*self.recipes, *([f"{AUTOMATIC}4.25bpw"] if self.mixed else [])]
            raise InputError(f"no recipe {recipe!r}; there are {', '.join(known)}.")
        return self.recipes[name]

    def options(self, shape: Shape) -> list[QuantSpec]:
        """How a calibrated matrix may be stored under a budget."""
        specs = (self.named[name].fitted(shape) for name in self.mixed)
        return [replace(spec, method=FEEDBACK) for spec in specs]

    def examples(self, recipe: str, given: str | None) -> str | None:
        """What recipe `recipe` is calibrated on: the examples that are `given`, or those that ship
        if it is calibrated anyway; None means no calibration.

        Raises `InputError` for examples that a recipe without a calibration is given.
        """
        if given is not None and recipe == UNCALIBRATED_RECIPE:
            raise InputError(
                f"{UNCALIBRATED_RECIPE} is int4 without a calibration; give --quant int4 with "
                "--calibration."
            )
        calibrates = recipe in CALIBRATED_RECIPES or budget_of(recipe) is not None
        return SHIPPED_EXAMPLES if given is None and calibrates else given


# Groups of 8 to 16 rows are as fast on the Neural Engine as one table for the whole matrix.
_GROUP = 16
# The vision tower stays in float16: quantizing it costs perception far more than it saves.
# The head keeps six bits under int4: it is one matrix in 37, and every token goes through it.
_AROUND_TABLES = {"lm_head": "int6", "embed_tokens": "int8"}
LOOKUP_TABLES = Precisions(
    named={
        "none": FLOAT16,
        "int8": QuantSpec("lut", 8, _GROUP),
        "int6": QuantSpec("lut", 6, _GROUP),
        "int4": QuantSpec("lut", 4, _GROUP),
        "int4g32": QuantSpec("lut", 4, 32),
        "int4g64": QuantSpec("lut", 4, 64),
        "int4g128": QuantSpec("lut", 4, 128),
        "int3": QuantSpec("lut", 3, _GROUP),
    },
    recipes={
        "none": {},
        "int8": {"decoder": "int8", "lm_head": "int8", "embed_tokens": "int8"},
        "int4": {**_AROUND_TABLES, "decoder": "int4"},
        UNCALIBRATED_RECIPE: {**_AROUND_TABLES, "decoder": "int4"},
        "int3": {**_AROUND_TABLES, "decoder": "int3"},
    },
    floats=FLOAT16,
    # Embedding rows are read one at a time, each with its scale.
    by_rows=frozenset({"embed_tokens"}),
    mixed=("int3", "int4", "int6", "int8"),
)
# Blocks of 128 are a tenth faster than blocks of 32 and coarser, which a calibration makes up for.
# A vision tower of four bits is slower than one of floats: the kernels are for single tokens.
_AROUND_BLOCKS = {
    "vision_encoder": "fp16",
    "resampler": "fp16",
    "lm_head": "int8",
    "embed_tokens": "int8",
}
BLOCKS = Precisions(
    named={
        "none": FLOAT32,
        "fp16": FLOAT16,
        "int8": QuantSpec("blocks", 8, 32),
        "int4": QuantSpec("blocks", 4, 32),
        "int4b128": QuantSpec("blocks", 4, 128),
        "int4a": QuantSpec("blocks", 4, 32, symmetric=False),
    },
    recipes={
        "none": {"embed_tokens": "fp16"},  # rows are looked up one at a time: never 32 bits
        "int8": {**_AROUND_BLOCKS, "decoder": "int8"},
        "int4": {**_AROUND_BLOCKS, "decoder": "int4b128"},
        UNCALIBRATED_RECIPE: {**_AROUND_BLOCKS, "decoder": "int4"},
    },
    floats=FLOAT32,
    by_rows=frozenset({"vision_encoder", "resampler", "embed_tokens"}),
    mixed=("int4b128", "int4", "int8"),
)
_BY_ROWS = ("none", "fp16", "int8")


def build_recipe(
    name: str,
    overrides: Mapping[str, str],
    precisions: Precisions,
    parts: Mapping[str, str],
    kept: Sequence[str],
    calibrated: Collection[str] = (),
) -> QuantRecipe:
    """Return recipe `name` with the precisions of the parts in `overrides` replaced.

    `parts` maps each part to the pattern of its weights' names; weights that match `kept` stay
    floats. The tables and blocks of the parts in `calibrated` are chosen by error feedback. Raises
    `InputError` for an unknown recipe or part, or a precision that it cannot have.
    """
    chosen = {**precisions.parts(name), **overrides}
    for part, precision in overrides.items():
        if part not in parts or precision not in precisions.named:
            raise InputError(
                f"cannot override {part!r} with {precision!r}; parts are {', '.join(parts)}, "
                f"precisions are {', '.join(precisions.named)}."
            )
        allowed = [p for p in _BY_ROWS if p in precisions.named]
        if part in precisions.by_rows and precision not in allowed:
            raise InputError(f"{part} takes no {precision}, only {' or '.join(allowed)}.")
    rules = [QuantRule(pattern, precisions.floats) for pattern in kept]
    specs = {
        part: _chosen_by(part in calibrated, _spec(part, chosen[part], precisions))
        for part in parts
        if part in chosen
    }
    if all(specs[part].method != FEEDBACK for part in specs if part != HEAD):
        # The head makes up for what the blocks have lost: here that is nothing.
        specs = {part: _spec(part, chosen[part], precisions) for part in specs}
    rules += [QuantRule(parts[part], spec) for part, spec in specs.items()]
    rules.append(QuantRule("*", precisions.floats))
    label = "+".join([name, *(f"{part}={precision}" for part, precision in overrides.items())])
    return QuantRecipe(label, tuple(rules))


def _chosen_by(calibration: bool, spec: QuantSpec) -> QuantSpec:
    """The same, chosen by error feedback if there is a calibration and the form allows it."""
    feeds_back = calibration and spec.form in METHODS[FEEDBACK].forms
    return replace(spec, method=FEEDBACK) if feeds_back else spec


def _spec(part: str, precision: str, precisions: Precisions) -> QuantSpec:
    by_rows = part in precisions.by_rows and precision == "int8"
    return _ROWS if by_rows else precisions.named[precision]
