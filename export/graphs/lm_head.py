"""The LM head in blocks of rows, from which each target makes its own graphs."""

from __future__ import annotations

from export.graphs.graph import Parameter
from export.graphs.parameters import row_block
from export.models.config import DecoderConfig
from export.models.tensors import EMBED_TOKENS, LM_HEAD


def head_rows(config: DecoderConfig, number: int, begin: int, end: int) -> Parameter:
    """Return block `number` of the head, for the logits of tokens begin … end - 1.

    A tied head is stored separately from the embeddings, so it is restored as a head of its own.
    """
    tensor = EMBED_TOKENS if config.tie_word_embeddings else LM_HEAD
    name, columns = f"llm.lm_head.{number:02d}.weight", config.hidden_size
    return row_block(name, tensor, begin, end, columns, restores=LM_HEAD)
