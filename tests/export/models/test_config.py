"""config.json: published values, and what is refused by name."""

import json
from dataclasses import replace

import pytest

from export.config import ExportConfig
from export.graphs.static.layout import static_decoding
from export.models.config import DecoderConfig, VisionConfig
from export.releases import load_config, parse_config
from mobile_runtime.bundle import Decoding
from mobile_runtime.errors import InputError


def test_published_values(published_model):
    assert published_model.vision == VisionConfig(1152, 27, 16, 4304, 980, 14, 1e-6)
    assert published_model.decoder == DecoderConfig(
        hidden_size=4096,
        num_layers=36,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=12288,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        vocab_size=151748,
        tie_word_embeddings=False,
        max_position_embeddings=40960,
        qkv_bias=False,
        qk_norm=True,
    )
    assert published_model.num_queries == 64
    assert published_model.resampler_heads == 32
    assert published_model.vision.position_buckets == 70


def test_published_file_is_understood(shared, published_model):
    assert load_config(shared / "upstream") == published_model


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 1e6, "factor": 2.0}),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 1e6}),
        ("layer_types", ["full_attention"] * 35 + ["sliding_attention"]),
        ("layer_types", "full_attention"),
        ("is_encoder_decoder", True),
        ("pruned_heads", {"0": [1]}),
        ("attention_bias", True),
        ("sliding_window", 4096),
        ("use_sliding_window", True),
        ("quantization_config", {"quant_method": "gptq"}),
    ],
)
def test_unsupported_value_is_refused_by_name(published_values, key, value):
    published_values[key] = value
    with pytest.raises(InputError, match=rf"config.json has {key} = .*not supported"):
        parse_config(published_values)


@pytest.mark.parametrize(("key", "value"), [("model_type", "llama"), ("version", 2.6)])
def test_other_model_is_told_which_are_supported(published_values, key, value):
    published_values[key] = value
    given = (
        rf"model_type '{published_values['model_type']}' and version {published_values['version']}"
    )
    with pytest.raises(InputError, match=rf"config.json has {given}, .*supported: MiniCPM-V 4.5"):
        parse_config(published_values)


@pytest.mark.parametrize(
    ("key", "value"), [("model_type", "clip"), ("hidden_act", "gelu"), ("num_channels", 1)]
)
def test_unsupported_vision_value_is_refused_by_name(published_values, key, value):
    published_values["vision_config"][key] = value
    with pytest.raises(InputError, match=f"vision_config has {key} = "):
        parse_config(published_values)


@pytest.mark.parametrize("part", ["config.json", "vision_config"])
@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "intermediate_size"])
@pytest.mark.parametrize("value", [10**5 + 0.5, 10**9, 10**400, float("nan"), float("inf"), True])
def test_numbers_that_no_model_has_are_refused_at_once(published_values, part, key, value):
    where = published_values if part == "config.json" else published_values["vision_config"]
    where[key] = value
    with pytest.raises(InputError, match=f"{part} .*{key}") as raised:
        parse_config(published_values)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0])
def test_constants_are_positive_numbers(published_values, key, value):
    published_values[key] = value
    with pytest.raises(InputError, match=f"needs a positive number '{key}'"):
        parse_config(published_values)


def test_version_may_be_text(published_values, published_model):
    published_values["version"] = "4.5"
    assert parse_config(published_values) == published_model


@pytest.mark.parametrize("part", ["config.json", "vision_config"])
def test_unknown_key_is_refused_by_name(published_values, part):
    where = published_values if part == "config.json" else published_values["vision_config"]
    where["scale_emb"] = 12
    with pytest.raises(InputError, match=rf"{part} has keys .*: scale_emb;"):
        parse_config(published_values)


@pytest.mark.parametrize("value", [None, False])
def test_unknown_key_that_switches_nothing_on_is_tolerated(
    published_values, published_model, value
):
    published_values["use_new_thing"] = value
    published_values["vision_config"]["use_new_thing"] = value
    assert parse_config(published_values) == published_model


def test_what_training_libraries_save_besides_changes_nothing(published_values, published_model):
    """transformers 4 and 5, unsloth, LLaMA-Factory, ms-swift."""
    saved = {
        "layer_types": ["full_attention"] * 36,
        "id2label": {"0": "LABEL_0"},
        "return_dict": True,
        "temperature": 0.7,
        "unsloth_version": "2026.1.1",
        "unsloth_fixed": True,
        "_attn_implementation_autoset": True,
        "dtype": "bfloat16",
        "use_cache": True,
        "pruned_heads": {},
        "is_decoder": True,
    }
    published_values |= saved
    published_values["vision_config"] |= {"return_dict": True, "vision_use_head": True, **saved}
    del published_values["vision_config"]["layer_types"]
    assert parse_config(published_values) == published_model


@pytest.mark.parametrize("kept", [True, False], ids=["both keys", "the new key"])
def test_rotary_parameters_of_transformers_5_are_read(published_values, published_model, kept):
    theta = published_values["rope_theta"]
    if not kept:
        del published_values["rope_theta"]
        del published_values["rope_scaling"]
    published_values["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    assert parse_config(published_values) == published_model
    published_values["rope_parameters"]["rope_theta"] = 5e5
    if kept:
        with pytest.raises(InputError, match=r"rope_theta = 1000000 and, in rope_parameters, 5"):
            parse_config(published_values)
    else:
        assert parse_config(published_values).decoder.rope_theta == 5e5


def test_a_default_scaling_of_the_rotary_embedding_is_none(published_values, published_model):
    published_values["rope_scaling"] = {"rope_type": "default", "type": "default"}
    assert parse_config(published_values) == published_model


def test_absent_drop_vision_last_layer_drops_it_as_the_published_class_does(published_values):
    del published_values["drop_vision_last_layer"]
    assert parse_config(published_values).vision.num_layers == 26


def test_drop_vision_last_layer_true_drops_one_layer(published_values):
    published_values["drop_vision_last_layer"] = True
    assert parse_config(published_values).vision.num_layers == 26


@pytest.mark.parametrize(
    "key",
    "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "intermediate_size rms_norm_eps rope_theta vocab_size max_position_embeddings "
    "query_num".split(),
)
def test_missing_key_is_named(published_values, key):
    del published_values[key]
    with pytest.raises(InputError, match=f"config.json needs a positive number '{key}'"):
        parse_config(published_values)


@pytest.mark.parametrize(
    "key", "hidden_size num_hidden_layers num_attention_heads image_size patch_size".split()
)
def test_missing_vision_key_is_named(published_values, key):
    del published_values["vision_config"][key]
    with pytest.raises(InputError, match=f"vision_config needs a positive number '{key}'"):
        parse_config(published_values)


@pytest.mark.parametrize("value", ["36", True, 0, -1, 36.5, None])
def test_count_must_be_a_positive_whole_number(published_values, value):
    published_values["num_hidden_layers"] = value
    with pytest.raises(InputError, match="'num_hidden_layers', but has"):
        parse_config(published_values)


@pytest.mark.parametrize(
    ("part", "key", "value", "rule"),
    [
        ("llm", "num_key_value_heads", 5, "multiple of num_key_value_heads"),
        ("llm", "head_dim", 127, "head_dim must be even"),
        ("llm", "hidden_size", 4000, "hidden_size must be a multiple of 128"),
        ("vision", "num_attention_heads", 7, "multiple of its num_attention_heads"),
        ("vision", "image_size", 981, "image_size must be a multiple of patch_size"),
    ],
)
def test_inconsistent_shapes_state_the_rule(published_values, part, key, value, rule):
    where = published_values if part == "llm" else published_values["vision_config"]
    where[key] = value
    with pytest.raises(InputError, match=rule):
        parse_config(published_values)


def test_two_patch_sizes_are_refused(published_values):
    published_values["patch_size"] = 16
    with pytest.raises(InputError, match="disagree on patch_size"):
        parse_config(published_values)


def test_config_without_vision_is_refused(published_values):
    del published_values["vision_config"]
    with pytest.raises(InputError, match="vision_config"):
        parse_config(published_values)


@pytest.mark.parametrize("value", [[151645, 151643], None])
def test_eos_token_has_no_effect(published_values, value):
    """Other checkpoints write a list or null; the graphs do not depend on it."""
    expected = parse_config(published_values)
    published_values["eos_token_id"] = value
    assert parse_config(published_values) == expected


def test_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"has no config.json; give the folder"):
        load_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "\x00", "[1]", '"text"', "null"])
def test_damaged_file_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        load_config(tmp_path)


def test_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="not valid JSON"):
        load_config(tmp_path)


def test_unknown_keys_of_a_file_keep_their_names(tmp_path, published_values):
    published_values["mystery"] = {"on": 1}
    (tmp_path / "config.json").write_text(json.dumps(published_values))
    with pytest.raises(InputError, match="mystery"):
        load_config(tmp_path)


def test_default_decoding(published_model):
    assert static_decoding(ExportConfig(), published_model) == Decoding(2048, 64, "state")


@pytest.mark.parametrize("context", [0, -32, 31, 33, 2047, 16_416, 40_960])
def test_impossible_context_length_says_what_is_possible(published_model, context):
    config = ExportConfig(context_length=context)
    with pytest.raises(InputError, match=rf"--context-length {context} .*32 to 16384"):
        static_decoding(config, published_model)


def test_context_is_limited_by_the_trained_positions(published_model):
    short = replace(published_model.decoder, max_position_embeddings=1000)
    model = replace(published_model, decoder=short)
    with pytest.raises(InputError, match="32 to 992"):
        static_decoding(ExportConfig(context_length=1024), model)


@pytest.mark.parametrize("context", [32, 16_384])
def test_extreme_context_lengths_are_allowed(published_model, context):
    config = ExportConfig(context_length=context, prefill_length=32)
    assert static_decoding(config, published_model).context_length == context


@pytest.mark.parametrize(("prefill", "most"), [(0, 2048), (1, 2048), (2049, 2048)])
def test_impossible_prefill_length_says_what_is_possible(published_model, prefill, most):
    config = ExportConfig(prefill_length=prefill)
    with pytest.raises(InputError, match=rf"--prefill-length {prefill} .*2 to {most}"):
        static_decoding(config, published_model)


def test_prefill_times_query_groups_stays_within_the_neural_engines_dimension(published_model):
    """Four query heads share a key head and are folded into the length: 4 · 4096 = 16384."""
    allowed = ExportConfig(context_length=16_384, prefill_length=4096)
    assert static_decoding(allowed, published_model).prefill_length == 4096
    with pytest.raises(InputError, match="2 to 4096"):
        static_decoding(replace(allowed, prefill_length=4097), published_model)


def test_unknown_cache_form_lists_both(published_model):
    with pytest.raises(InputError, match="give state or io"):
        static_decoding(ExportConfig(kv_cache="ram"), published_model)


def test_dropping_the_only_vision_layer_is_refused(published_values):
    published_values["vision_config"]["num_hidden_layers"] = 1
    published_values["drop_vision_last_layer"] = True
    with pytest.raises(InputError, match="needs one to run"):
        parse_config(published_values)
