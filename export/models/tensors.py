"""Names and shapes of the tensors that a checkpoint of the family holds. Needs no torch."""

from __future__ import annotations

from export.models.config import DecoderConfig, ModelConfig, VisionConfig

Shapes = dict[str, tuple[int, ...]]
EMBED_TOKENS = "llm.model.embed_tokens.weight"
LM_HEAD = "llm.lm_head.weight"
TIED = {LM_HEAD: EMBED_TOKENS}  # if the configuration says so
FINAL_NORM = "llm.model.norm.weight"
_BLOCK_NORMS = ("input_layernorm", "post_attention_layernorm")
POSITION_EMBEDDING = "vpm.embeddings.position_embedding.weight"


def tensor_shapes(config: ModelConfig) -> Shapes:
    """Every tensor of a checkpoint with `config`, as published; linear weights are (out, in)."""
    shapes = _vision(config.vision) | _resampler(config) | _decoder(config.decoder)
    if not config.decoder.tie_word_embeddings:
        size = (config.decoder.vocab_size, config.decoder.hidden_size)
        shapes[LM_HEAD] = size
    return shapes


def _affine(name: str, weight: tuple[int, ...]) -> Shapes:
    """A weight and its bias."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _vision(config: VisionConfig) -> Shapes:
    size, inner = config.hidden_size, config.intermediate_size
    shapes: Shapes = {POSITION_EMBEDDING: (config.position_buckets**2, size)}
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
        EMBED_TOKENS: (config.vocab_size, size),
        FINAL_NORM: (size,),
    }
    for n in range(config.num_layers):
        layer = f"llm.model.layers.{n}"
        attention = f"{layer}.self_attn"
        projections = {"q_proj": q_rows, "k_proj": kv_rows, "v_proj": kv_rows}
        shapes |= {f"{layer}.{norm}.weight": (size,) for norm in _BLOCK_NORMS}
        shapes |= {f"{attention}.{name}.weight": (rows, size) for name, rows in projections.items()}
        shapes[f"{attention}.o_proj.weight"] = (size, q_rows)
        if config.qkv_bias:
            shapes |= {f"{attention}.{name}.bias": (rows,) for name, rows in projections.items()}
        if config.qk_norm:
            shapes |= {f"{attention}.{norm}.weight": (dim,) for norm in ("q_norm", "k_norm")}
        shapes |= {f"{layer}.mlp.{name}.weight": (inner, size) for name in ("gate_proj", "up_proj")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (size, inner)
    return shapes
