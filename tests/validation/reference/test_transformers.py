"""The PyTorch modules against transformers' own Qwen3 and SigLIP, random weights, in float32."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers", reason="not installed: pip install -e '.[transformers]'")

from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from benchmarks.published import CONFIG
from export.releases import parse_config
from validation.reference.qwen import KeyValueCache, Qwen
from validation.reference.siglip import VisionEncoder

PUBLISHED = parse_config(CONFIG)
SIZES = {"hidden_size": 96, "intermediate_size": 160, "num_layers": 3, "num_heads": 6}
TOLERANCE = 1e-5  # beside values near 1: float32 in another order of sums


def randomized(module):
    """Weights of every parameter at random, biases and norms too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.normal_(0, spread, generator=generator)
    return module.eval()


def taken_from(theirs, ours, prefix=""):
    """Our module with their weights, every one of ours found there."""
    state = theirs.state_dict()
    ours.load_state_dict({name: state[prefix + name] for name in ours.state_dict()}, strict=True)
    return ours.eval()


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
@torch.inference_mode()
def test_the_decoder_is_transformers_qwen(kind):
    changed = {"vocab_size": 211, "num_kv_heads": 2, "head_dim": 16, "rope_theta": 5e5}
    qwen3 = kind == "qwen3"
    config = replace(
        PUBLISHED.decoder, **SIZES, **changed, qkv_bias=not qwen3, qk_norm=qwen3, rms_norm_eps=1e-3
    )
    own = {"head_dim": 16, "attention_bias": False} if qwen3 else {}
    described = (Qwen3Config if qwen3 else Qwen2Config)(
        vocab_size=211,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        tie_word_embeddings=False,
        use_sliding_window=False,
        attn_implementation="eager",
        **own,
    )
    theirs = randomized((Qwen3ForCausalLM if qwen3 else Qwen2ForCausalLM)(described))
    ours = taken_from(theirs, Qwen(config))
    ids = torch.randint(211, (37,), generator=torch.Generator().manual_seed(1))
    wanted = theirs(ids[None]).logits[0]
    # In two blocks, the second on the first one's cache.
    cache = KeyValueCache.empty(config, 40)
    rows = ours.model.embed_tokens(ids)
    blocks = [ours.run_layers(rows[:20], 0, cache), ours.run_layers(rows[20:], 20, cache)]
    found = ours.logits(torch.cat(blocks))
    assert wanted.std() > 0.5
    assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


@torch.inference_mode()
def test_the_vision_tower_is_transformers_siglip():
    side, patch = 9, 14
    config = replace(PUBLISHED.vision, **SIZES, image_size=side * patch, layer_norm_eps=1e-3)
    assert config.patch_size == patch
    described = SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=6,
        image_size=side * patch,
        patch_size=patch,
        layer_norm_eps=1e-3,
        hidden_act="gelu_pytorch_tanh",
        vision_use_head=False,
        attn_implementation="eager",
    )
    theirs = randomized(SiglipVisionModel(described))
    prefix = "vision_model." if hasattr(theirs, "vision_model") else ""
    ours = taken_from(theirs, VisionEncoder(config), prefix)
    generator = torch.Generator().manual_seed(1)
    picture = torch.randn(1, 3, side * patch, side * patch, generator=generator)
    wanted = theirs(picture).last_hidden_state[0]
    tiles = picture[0].unflatten(1, (side, patch)).unflatten(3, (side, patch))
    patches = tiles.permute(1, 3, 0, 2, 4).reshape(1, side * side, 3 * patch * patch)
    # Padding stands behind: it must change nothing.
    padded = torch.cat([patches, torch.randn(1, 5, patches.shape[2], generator=generator)], 1)
    ids = torch.cat([torch.arange(side * side), torch.zeros(5, dtype=torch.long)])[None]
    valid = torch.arange(side * side + 5)[None] < side * side
    found = ours(padded, ids, valid)[0, : side * side]
    assert wanted.std() > 0.5
    assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
