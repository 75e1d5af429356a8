"""Keys of config.json that do not change what the decoder or the vision tower computes, and keys
that newer versions of libraries write in place of the published ones.

Training libraries save a configuration with all that their version of transformers knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobile_runtime.errors import InputError

# Why they have no effect -> the keys.
_REASONS: Mapping[str, str] = {
    "name files, classes and versions": "_name_or_path _commit_hash architectures auto_map dtype "
    "torch_dtype transformers_version tokenizer_class prefix finetuning_task model_name "
    "unsloth_version unsloth_fixed adapters_version",
    "choose an implementation of the same sums": "_attn_implementation "
    "_attn_implementation_autoset _experts_implementation attn_implementation use_cache "
    "use_bfloat16 chunk_size_feed_forward torchscript tf_legacy_loss use_flash_attention_2 "
    "use_reentrant gradient_checkpointing tie_encoder_decoder remove_invalid_values",
    "matter to training": "attention_dropout dropout initializer_range initializer_factor "
    "label_smoothing problem_type id2label label2id num_labels task_specific_params "
    "keys_to_ignore_at_inference",
    "name tokens, which the tokenizer's files do": "bos_token_id eos_token_id pad_token_id "
    "sep_token_id unk_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id",
    "choose tokens, for which the release has its own": "do_sample temperature top_k top_p "
    "typical_p repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size bad_words_ids num_beams num_beam_groups diversity_penalty "
    "early_stopping max_length min_length max_new_tokens num_return_sequences suppress_tokens "
    "begin_suppress_tokens exponential_decay_length_penalty",
    "choose what a call returns": "return_dict return_dict_in_generate output_attentions "
    "output_hidden_states output_scores",
    "count layers with a window, which none has": "max_window_layers",
}
NO_EFFECT = frozenset(key for keys in _REASONS.values() for key in keys.split())
# They change a model: only these values are the published one's.
UNCHANGED: Mapping[str, tuple[Any, ...]] = {
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": ({},),
}
_KIND_OF_LAYER = "full_attention"
_KIND_OF_ROPE = "default"


def with_published_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the published keys, where newer ones say the same.

    Raises `InputError` for a newer key that says something else.
    """
    published = dict(values)
    kinds = published.pop("layer_types", None)
    if kinds is not None and (not isinstance(kinds, list) or set(kinds) - {_KIND_OF_LAYER}):
        raise InputError(
            f"config.json has layer_types = {str(kinds)[:80]}, which is not supported; supported: "
            f"{_KIND_OF_LAYER!r} for every layer."
        )
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(published.get(key), dict):
            _take_rope(published, key)
    return published


def _take_rope(published: dict[str, Any], key: str) -> None:
    """Replace a rotary embedding's table of parameters by the published key."""
    given = published.pop(key)
    rope = {name: value for name, value in given.items() if value is not None}
    kinds = {rope.pop(name, _KIND_OF_ROPE) for name in ("rope_type", "type")}
    theta = rope.pop("rope_theta", published.get("rope_theta"))
    if kinds != {_KIND_OF_ROPE} or rope:
        raise InputError(
            f"config.json has {key} = {str(given)[:80]}, which is not supported; supported: "
            f"a rope_type {_KIND_OF_ROPE!r} without further parameters."
        )
    if published.setdefault("rope_theta", theta) != theta:
        raise InputError(
            f"config.json has rope_theta = {published['rope_theta']} and, in {key}, {theta}; "
            "make them equal."
        )
