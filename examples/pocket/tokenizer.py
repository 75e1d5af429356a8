"""The pocket model's tokenizer: byte-level BPE with merges of only its questions' words.

Capitals, digits and punctuation stay one token each, so that reading is spelling.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.pocket.architecture import VOCAB_SIZE
from export.host.chat_format import SPECIAL_TOKENS
from export.host.chat_template import COMPACT
from mobile_runtime.chat.tokenizer_file import WORD_PATTERN
from validation.questions import tasks

# Published names that the questions do not use; text that holds them must still be harmless.
_UNUSED = tuple(
    f"<{mark}{name}>" for name in ("ref", "box", "quad", "point", "unit") for mark in ("", "/")
)


def build_tokenizer(sentences: list[str]) -> Tokenizer:
    """Learn merges from `sentences`, then append the special tokens up to `VOCAB_SIZE`."""
    special = [*SPECIAL_TOKENS.values(), *_UNUSED]
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(sentences), trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return tokenizer


def words_of_the_tasks(seed: int, count: int) -> list[str]:
    """Lower-case words of questions and answers, each once per question that holds it."""
    words = []
    for task in tasks.TASKS:
        for n in range(count):
            for turn in tasks.draw_question(task, seed, n).turns:
                text = f"{turn.question} {turn.answer} {turn.thoughts or ''}"
                words += re.findall(r" ?[A-Z]?[a-z]+", text)
    return words


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """tokenizer.json and tokenizer_config.json as a checkpoint has them."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    added = {
        str(token_id): {"content": token.content, "special": token.special, "normalized": False}
        for token_id, token in tokenizer.get_added_tokens_decoder().items()
    }
    settings = {"chat_template": COMPACT, "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
