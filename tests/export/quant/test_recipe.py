"""Recipes: order of rules, group sizes, overrides, refusals, the manifest's record."""

import json

import pytest

from export.models.tensors import EMBED_TOKENS
from export.quant.methods import check_method
from export.quant.recipe import FLOAT16, FLOAT32, QuantRecipe, QuantRule, QuantSpec
from export.quant.recipes import BLOCKS, LOOKUP_TABLES, build_recipe
from export.releases import DEFAULT_RELEASE
from mobile_runtime.errors import InputError

RECIPES = LOOKUP_TABLES.recipes
INT4 = QuantSpec("lut", 4, 16)
INT6 = QuantSpec("lut", 6, 16)
INT8 = QuantSpec("lut", 8, 16)
TABLE = QuantSpec("rows", 8)

# One matrix of every part, with the published rows.
MATRICES = {
    "vpm.encoder.layers.3.mlp.fc1.weight": (4304, 4096),
    "resampler.attn.key_query.weight": (2048, 4096),
    "resampler.attn.out_proj.weight": (4096, 4096),
    "llm.model.layers.10.mlp.up_proj.weight": (12288, 4096),
    "llm.lm_head.07.weight": (9504, 4096),
    EMBED_TOKENS: (151748, 4096),
}


def build(name, overrides):
    return build_recipe(name, overrides, LOOKUP_TABLES, DEFAULT_RELEASE.parts, DEFAULT_RELEASE.kept)


def recipe(*rules):
    return QuantRecipe("mine", tuple(QuantRule(pattern, spec) for pattern, spec in rules))


def test_first_matching_rule_decides():
    rules = recipe(("a.1*", INT4), ("a.*", INT6), ("*", FLOAT16))
    assigned = rules.assign({"a.1.w": (32, 4096), "a.2.w": (32, 4096), "b.w": (32, 4096)})
    assert assigned == {"a.1.w": INT4, "a.2.w": INT6, "b.w": FLOAT16}


def test_dots_are_no_wildcards_and_case_counts():
    rules = recipe(("a.b", INT4), ("*", FLOAT16))
    assert rules.assign({"a.b": (16, 4096), "axb": (16, 4096), "A.b": (16, 4096)}) == {
        "a.b": INT4,
        "axb": FLOAT16,
        "A.b": FLOAT16,
    }


def test_rule_that_matches_nothing_is_refused_by_pattern():
    rules = recipe(("decoder.*", INT4), ("lm_head.*", INT6), ("*", FLOAT16))
    with pytest.raises(InputError, match=r"match no weight: decoder\.\*, lm_head\.\*;"):
        rules.assign({"llm.w": (16, 4096)})


def test_rule_hidden_behind_an_earlier_one_is_not_idle():
    rules = recipe(("a*", INT4), ("ab", INT6))
    assert rules.assign({"ab": (16, 4096)}) == {"ab": INT4}


def test_matrix_without_a_rule_is_refused_by_name():
    with pytest.raises(InputError, match=r"no rule for b\.weight"):
        recipe(("a*", INT4)).assign({"a": (16, 4096), "b.weight": (16, 4096)})


@pytest.mark.parametrize(
    ("rows", "group"), [(4096, 16), (4304, 16), (9504, 16), (24, 8), (6, 2), (5, 1), (16, 16)]
)
def test_group_is_the_largest_that_divides_rows_and_the_group_asked_for(rows, group):
    assert recipe(("*", INT4)).assign({"w": (rows, 4096)})["w"] == QuantSpec("lut", 4, group)


def test_int4_keeps_vision_in_float16_and_the_head_in_six_bits():
    assert build("int4", {}).assign(MATRICES) == {
        "vpm.encoder.layers.3.mlp.fc1.weight": FLOAT16,
        "resampler.attn.key_query.weight": FLOAT16,
        "resampler.attn.out_proj.weight": FLOAT16,
        "llm.model.layers.10.mlp.up_proj.weight": INT4,
        "llm.lm_head.07.weight": INT6,
        EMBED_TOKENS: TABLE,
    }


def test_none_quantizes_nothing():
    assert set(build("none", {}).assign(MATRICES).values()) == {FLOAT16}


def test_int8_uses_eight_bits_in_the_language_model():
    assigned = build("int8", {}).assign(MATRICES)
    assert assigned["llm.model.layers.10.mlp.up_proj.weight"] == INT8
    assert assigned["llm.lm_head.07.weight"] == INT8
    assert assigned[EMBED_TOKENS] == TABLE


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("vision_encoder", "vpm.encoder.layers.3.mlp.fc1.weight"),
        ("resampler", "resampler.attn.out_proj.weight"),
        ("decoder", "llm.model.layers.10.mlp.up_proj.weight"),
        ("lm_head", "llm.lm_head.07.weight"),
    ],
)
@pytest.mark.parametrize("name", list(RECIPES))
def test_override_changes_its_part_alone(name, part, changed):
    plain = build(name, {}).assign(MATRICES)
    assigned = build(name, {part: "int6"}).assign(MATRICES)
    assert assigned[changed] == INT6
    assert {k: v for k, v in assigned.items() if k != changed} == {
        k: v for k, v in plain.items() if k != changed
    }


def test_folded_queries_stay_float16_whatever_the_resampler_takes():
    """The host computes the score bias with the same values."""
    assigned = build("int4", {"resampler": "int4"}).assign(MATRICES)
    assert assigned["resampler.attn.key_query.weight"] == FLOAT16


def test_overrides_stand_in_the_name():
    assert build("int4", {"lm_head": "int8"}).name == "int4+lm_head=int8"
    assert build("int4", {}).name == "int4"


@pytest.mark.parametrize("precision", ["none", "int8"])
def test_embedding_table_takes_none_or_int8(precision):
    assigned = build("int4", {"embed_tokens": precision}).assign(MATRICES)
    assert assigned[EMBED_TOKENS] == (TABLE if precision == "int8" else FLOAT16)


@pytest.mark.parametrize("precision", ["int4", "int6"])
def test_embedding_table_refuses_lookup_tables(precision):
    with pytest.raises(InputError, match="none or int8"):
        build("int4", {"embed_tokens": precision})


@pytest.mark.parametrize(("part", "precision"), [("head", "int8"), ("lm_head", "int5"), ("", "")])
def test_bad_override_lists_parts_and_precisions(part, precision):
    with pytest.raises(InputError) as caught:
        build("int4", {part: precision})
    text = str(caught.value)
    assert f"cannot override {part!r} with {precision!r}" in text
    assert all(word in text for word in ("vision_encoder", "lm_head", "none", "int6"))


@pytest.mark.parametrize("precisions", [LOOKUP_TABLES, BLOCKS])
@pytest.mark.parametrize(
    ("recipe", "given", "examples"),
    [
        ("int4", None, "default"),
        ("int4", "chats.json", "chats.json"),
        ("int4-fast", None, None),
        ("int8", None, None),
        ("int8", "default", "default"),
    ],
)
def test_int4_is_calibrated_whether_or_not_examples_are_given(precisions, recipe, given, examples):
    assert precisions.examples(recipe, given) == examples


def test_int4_fast_takes_no_examples():
    with pytest.raises(InputError, match="give --quant int4 with --calibration"):
        LOOKUP_TABLES.examples("int4-fast", "chats.json")


def test_blocks_of_128_are_for_a_calibration_alone():
    groups = {
        name: BLOCKS.named[BLOCKS.parts(name)["decoder"]].group_size
        for name in ("int4", "int4-fast")
    }
    assert groups == {"int4": 128, "int4-fast": 32}


def test_unknown_recipe_lists_what_there_is():
    with pytest.raises(InputError, match=r"no recipe 'int5'; there are none, int8, int4"):
        build("int5", {})


@pytest.mark.parametrize("name", list(RECIPES))
def test_json_round_trip(name):
    built = build(name, {"vision_encoder": "int8", "embed_tokens": "none"})
    text = json.dumps(built.as_json())
    assert QuantRecipe.from_json(json.loads(text)) == built


def test_a_record_from_before_forms_had_names_reads_as_the_same_specifications():
    """As bundles of schema 2 wrote it: the method named the form, and float16 was nothing."""
    old = {"bits": 4, "group_size": 16, "method": "kmeans", "symmetric": True}
    rows = {"bits": 8, "group_size": 1, "method": "affine"}
    blocks = {"bits": 4, "group_size": 32, "method": "block", "symmetric": False}
    dense = {"bits": 32, "group_size": 1, "method": "dense", "symmetric": True}
    specs = (old, rows, blocks, dense)
    rules = [{"pattern": name, "spec": spec} for name, spec in zip("abcd", specs, strict=True)]
    read = QuantRecipe.from_json({"name": "old", "rules": [*rules, {"pattern": "*", "spec": None}]})
    assert [rule.spec for rule in read.rules] == [
        INT4,
        TABLE,
        QuantSpec("blocks", 4, 32, symmetric=False),
        FLOAT32,
        FLOAT16,
    ]


def test_an_unknown_form_or_method_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="no storage form 'trellis'; there are lut, rows"):
        QuantSpec("trellis", 4)
    with pytest.raises(InputError, match=r"no method 'guess' .*; there are kmeans"):
        check_method("w", QuantSpec("lut", 4, method="guess"))
    with pytest.raises(InputError, match="kmeans does not produce rows"):
        check_method("w", QuantSpec("rows", 8, method="kmeans"))
