"""Names and shapes of the tensors that a MiniCPM-V 4.5 checkpoint holds. Needs no torch."""

from __future__ import annotations

from export.models.config import DecoderConfig, ModelConfig, VisionConfig

Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(config: ModelConfig) -> Shapes:
    """Every tensor of a checkpoint with `config`, as published; linear weights are (out, in)."""
    shapes = _vision(config.vision) | _resampler(config) | _decoder(config.decoder)
    if not config.decoder.tie_word_embeddings:
        size = (config.decoder.vocab_size, config.decoder.hidden_size)
        shapes["llm.lm_head.weight"] = size
    return shapes


def _affine(name: str, weight: tuple[int, ...]) -> Shapes:
    """A weight and its bias."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _vision(config: VisionConfig) -> Shapes:
    size, inner = config.hidden_size, config.intermediate_size
    shapes: Shapes = {
        "vpm.embeddings.position_embedding.weight": (config.position_buckets**2, size)
    }
    patch = (size, 3, config.patch_size, config.patch_size)
    shapes |= _affine("vpm.embeddings.patch_embedding", patch)
    shapes |= _affine("vpm.post_layernorm", (size,))
    for n in range(config.num_layers):
        layer = f"vpm.encoder.layers.{n}"
        shapes |= _affine(f"{layer}.layer_norm1", (size,)) | _affine(
            f"{layer}.layer_norm2", (size,)
        )
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _affine(f"{layer}.self_attn.{projection}", (size, size))
        shapes |= _affine(f"{layer}.mlp.fc1", (inner, size))
        shapes |= _affine(f"{layer}.mlp.fc2", (size, inner))
    return shapes


def _resampler(config: ModelConfig) -> Shapes:
    size = config.decoder.hidden_size
    shapes: Shapes = {
        "resampler.query": (config.num_queries, size),
        "resampler.kv_proj.weight": (size, config.vision.hidden_size),
        "resampler.attn.in_proj_weight": (3 * size, size),
        "resampler.attn.in_proj_bias": (3 * size,),
        "resampler.proj": (size, size),
    }
    shapes |= _affine("resampler.attn.out_proj", (size, size))
    for norm in ("ln_q", "ln_kv", "ln_post"):
        shapes |= _affine(f"resampler.{norm}", (size,))
    return shapes


def _decoder(config: DecoderConfig) -> Shapes:
    size, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_rows, kv_rows = config.num_heads * dim, config.num_kv_heads * dim
    shapes: Shapes = {
        "llm.model.embed_tokens.weight": (config.vocab_size, size),
        "llm.model.norm.weight": (size,),
    }
    for n in range(config.num_layers):
        layer = f"llm.model.layers.{n}"
        block: Shapes = {
            f"{layer}.input_layernorm.weight": (size,),
            f"{layer}.post_attention_layernorm.weight": (size,),
            f"{layer}.self_attn.q_proj.weight": (q_rows, size),
            f"{layer}.self_attn.k_proj.weight": (kv_rows, size),
            f"{layer}.self_attn.v_proj.weight": (kv_rows, size),
            f"{layer}.self_attn.o_proj.weight": (size, q_rows),
            f"{layer}.self_attn.q_norm.weight": (dim,),
            f"{layer}.self_attn.k_norm.weight": (dim,),
            f"{layer}.mlp.gate_proj.weight": (inner, size),
            f"{layer}.mlp.up_proj.weight": (inner, size),
            f"{layer}.mlp.down_proj.weight": (size, inner),
        }
        shapes |= block
    return shapes
