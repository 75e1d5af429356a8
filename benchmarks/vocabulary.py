"""A byte-level tokenizer of any size with MiniCPM-V 4.5's special tokens.

There is one token per byte; the other entries are never the result of encoding, but decode to
bytes, so that a model with random weights can say anything.
"""

from __future__ import annotations

from itertools import chain, islice, product

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from export.host.chat_format import SPECIAL_TOKENS
from mobile_runtime.chat.tokenizer_file import WORD_PATTERN

QWEN2_WORDS = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
# The published first ones: the configuration names their ids.
_FIRST = ("end_of_text", "message_start", "message_end")


def build_tokenizer(size: int, first_special: int) -> Tokenizer:
    """`size` tokens; from `first_special` on special ones, those without a role at the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    longer = chain(product(alphabet, repeat=2), product(alphabet, repeat=3))
    symbols = islice(chain(alphabet, map("".join, longer)), first_special)
    tokenizer = Tokenizer(models.BPE(vocab={s: n for n, s in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = QWEN2_WORDS
    tokenizer.decoder = decoders.ByteLevel()
    roles = (*_FIRST, *(role for role in SPECIAL_TOKENS if role not in _FIRST))
    special = [SPECIAL_TOKENS[role] for role in roles]
    reserved = size - first_special - len(special)
    special += [f"<|reserved_{n}|>" for n in range(reserved)]
    tokenizer.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in special])
    return tokenizer
