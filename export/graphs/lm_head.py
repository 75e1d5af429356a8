"""The LM head in blocks of its rows, whatever a target makes of them."""

from __future__ import annotations

from export.graphs.graph import Parameter
from export.graphs.parameters import row_block
from export.models.config import DecoderConfig


def head_rows(config: DecoderConfig, number: int, begin: int, end: int) -> Parameter:
    """Part `number` of the head: the logits of tokens begin … end - 1."""
    tied = config.tie_word_embeddings
    tensor = "llm.model.embed_tokens.weight" if tied else "llm.lm_head.weight"
    return row_block(f"llm.lm_head.{number:02d}.weight", tensor, begin, end, config.hidden_size)
