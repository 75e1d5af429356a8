"""Final norm and LM head: one hidden state in, the logits in slices out.

The Neural Engine takes no dimension above 16,384, so the vocabulary is padded and cut into equal
slices; the reader drops the padded logits.
"""

from __future__ import annotations

from export.graphs.graph import Parameter
from export.graphs.parameters import row_block
from export.models.config import DecoderConfig


def head_rows(config: DecoderConfig, number: int, begin: int, end: int) -> Parameter:
    """Part `number` of the head: the logits of tokens begin … end - 1."""
    tied = config.tie_word_embeddings
    tensor = "llm.model.embed_tokens.weight" if tied else "llm.lm_head.weight"
    return row_block(f"llm.lm_head.{number:02d}.weight", tensor, begin, end, config.hidden_size)
