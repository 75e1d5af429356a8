"""The byte-level BPE tokenizer of a bundle: text to ids, ids to a stream of text.

Text is data: whatever it spells, it never becomes a special token. Special tokens are written by
id, which `token_id` looks up. It knows no chat format.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import tokenizers

from mobile_runtime.chat.tokenizer_file import byte_alphabet, load_tokenizer
from mobile_runtime.errors import InputError

_BYTE_OF = byte_alphabet()


class Tokenizer:
    """A loaded tokenizer.json."""

    def __init__(self, backend: tokenizers.Tokenizer, added: Mapping[int, str], special: set[int]):
        self._backend = backend
        self._added = dict(added)
        self._special = frozenset(special)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read tokenizer.json. Raises `InputError` if it is missing or of another shape than the
        published one."""
        backend, added = load_tokenizer(path, "export the bundle again")
        backend.encode_special_tokens = True
        contents = {token.id: token.content for token in added}
        return cls(backend, contents, {token.id for token in added if token.special})

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of `text`, read as plain text: special tokens that it spells stay letters.

        Raises `InputError` for a lone surrogate, and if the file's merges spell an added token.
        """
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError("The text holds half a character (a lone surrogate); give valid text.")
        ids = self._backend.encode(text, add_special_tokens=False).ids
        if not self._added.keys().isdisjoint(ids):
            raise InputError("tokenizer.json makes added tokens of text; export the bundle again.")
        return ids

    @cached_property
    def longest_token(self) -> int:
        """Most bytes that one token stands for."""
        return max(map(len, self._backend.get_vocab()), default=0)

    def token_id(self, content: str) -> int:
        """The id of the token written exactly `content`. Raises `InputError` if there is none."""
        found = self._backend.token_to_id(content)
        if found is None:
            raise InputError(f"The tokenizer has no token {content!r}; export the bundle again.")
        return found

    def is_special(self, token_id: int) -> bool:
        """Whether the tokenizer marks the token as special (<think> is not, <image> is)."""
        return token_id in self._special

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token stands for; none for ids that only pad the vocabulary."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._backend.id_to_token(token_id)
        return b"" if token is None else bytes(_BYTE_OF[character] for character in token)

    def written_texts(self) -> list[bytes]:
        """The bytes of each token; none for added tokens, which text never becomes."""
        ids = range(self.vocab_size)
        return [b"" if n in self._added else self.token_bytes(n) for n in ids]

    def decode(self, ids: list[int], skip_special: bool = True) -> str:
        """The text of `ids`; invalid UTF-8 becomes U+FFFD."""
        stream = StreamDecoder(self, skip_special)
        return "".join(map(stream.push, ids)) + stream.flush()


def _utf8_decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")(errors="replace")


@dataclass
class StreamDecoder:
    """Turns ids into text one by one, holding back the bytes of an incomplete character."""

    tokenizer: Tokenizer
    skip_special: bool = True
    _utf8: codecs.IncrementalDecoder = field(default_factory=_utf8_decoder)

    def push(self, token_id: int) -> str:
        """The text that became complete with this token; often empty inside a character."""
        if self.skip_special and self.tokenizer.is_special(token_id):
            return ""
        return self._utf8.decode(self.tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """End the text: an incomplete character becomes U+FFFD. The decoder can be used again."""
        return self._utf8.decode(b"", final=True)
