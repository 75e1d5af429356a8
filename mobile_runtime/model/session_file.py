"""A session in a file: its keys, cache and pictures' embeddings, and the messages if it has them.

The file says which bundle computed them, and in which precision. Nothing of it is trusted: what
does not fit the bundle is refused before the session is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobile_runtime.bundle import Manifest
from mobile_runtime.chat.conversation import Key
from mobile_runtime.chat.history import MAX_BYTES, unpack_messages
from mobile_runtime.errors import InputError
from mobile_runtime.model.tensor_file import TensorFile, open_tensors, write_tensors

Array = np.ndarray
_VERSION = "1"
_CACHE, _EMBEDS = "cache.", "image_embeds."  # what names begin with; the rest are in _OTHERS
_OTHERS = ("keys", "groups", "messages")
_TOKEN = -1  # in the place of a group's number
_DIGEST = 32  # bytes
_WANTED = "a file that a session of this bundle was saved to, or begin anew"


@dataclass(frozen=True)
class Origin:
    """What computes a session's cache: a bundle, by the digest of its manifest, in a precision."""

    bundle: str
    precision: str


def write_session(
    path: Path,
    origin: Origin,
    keys: Sequence[Key],
    image_embeds: Mapping[bytes, Array],
    cache: Mapping[str, Array],
    messages: bytes,
) -> None:
    """Write a session, whole or not at all. Raises `InputError` if `path` cannot be written."""
    groups = list(dict.fromkeys(key[0] for key in keys if not isinstance(key, int)))
    numbers = {digest: n for n, digest in enumerate(groups)}
    pairs = [(_TOKEN, k) if isinstance(k, int) else (numbers[k[0]], k[1]) for k in keys]
    arrays = {
        "keys": np.array(pairs, "<i4").reshape(-1, 2),
        "groups": np.frombuffer(b"".join(groups), np.uint8).reshape(-1, _DIGEST),
        "messages": np.frombuffer(messages, np.uint8),
        **{f"{_EMBEDS}{digest.hex()}": embeds for digest, embeds in image_embeds.items()},
        **{f"{_CACHE}{name}": rows for name, rows in cache.items()},
    }
    facts = {"version": _VERSION, "bundle": origin.bundle, "precision": origin.precision}
    try:
        write_tensors(path, arrays, facts)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); name a file in a folder that can be "
            "written to and has room for it."
        ) from error


@contextmanager
def open_session(path: Path, origin: Origin, manifest: Manifest) -> Iterator[SessionFile]:
    """Open a file that `write_session` wrote. Raises `InputError` if it is damaged, or another
    bundle or precision computed it."""
    with open_tensors(path, _WANTED) as tensors:
        yield SessionFile(tensors, path, origin, manifest)


class SessionFile:
    """An open file of a session, checked against the bundle. The cache is read array by array."""

    def __init__(self, tensors: TensorFile, path: Path, origin: Origin, manifest: Manifest) -> None:
        self._tensors, self._manifest = tensors, manifest
        self._check_facts(path, origin)
        self.keys = self._read_keys()
        self.image_embeds = dict(self._read_embeds())
        self.messages = self._read_messages()

    def cache(self, expected: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        """Names and arrays of the cache, as in `expected`. Raises `InputError` for others."""
        if self._named(_CACHE) != list(expected):
            raise self._tensors.damaged("holds another cache than the bundle's")
        for name, like in expected.items():
            yield name, self._read_finite(_CACHE + name, like.shape, like.dtype.kind)

    def _check_facts(self, path: Path, origin: Origin) -> None:
        facts = self._tensors.facts
        if facts.get("version") != _VERSION:
            raise self._tensors.damaged("is no session, or one of another version of the program")
        if facts.get("bundle") != origin.bundle:
            raise InputError(
                f"{path} was saved with another bundle; load that one, or name another file."
            )
        if facts.get("precision") != origin.precision:
            raise InputError(
                f"{path} was saved in the precision {facts.get('precision', '?')[:8]}, and the "
                f"session has {origin.precision}; load it with the same."
            )
        known = {*_OTHERS, *(p + n for p in (_CACHE, _EMBEDS) for n in self._named(p))}
        if set(self._tensors.names) != known:
            raise self._tensors.damaged("holds arrays that no session has, or lacks some")

    def _named(self, prefix: str) -> list[str]:
        names = self._tensors.names
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def _read_finite(self, name: str, shape: tuple[int, ...], kind: str) -> Array:
        values = self._tensors.read(name, shape, kind)
        if not np.isfinite(values).all():
            raise self._tensors.damaged("holds numbers that are not finite")
        return values

    def _read_keys(self) -> list[Key]:
        most = self._manifest.decoding.context_length
        vocabulary = self._manifest.architecture.vocab_size
        pairs = self._tensors.read("keys", (-1, 2), "i", most)
        rows = self._tensors.read("groups", (-1, _DIGEST), "u", most)
        group, number = pairs.T
        limits = np.where(group == _TOKEN, vocabulary, self._manifest.preprocessing.num_queries)
        right = (group >= _TOKEN) & (group < len(rows)) & (number >= 0) & (number < limits)
        if not right.all():
            raise self._tensors.damaged("holds tokens that the bundle does not have")
        digests = [row.tobytes() for row in rows]
        return [n if g == _TOKEN else (digests[g], n) for g, n in pairs.tolist()]

    def _read_embeds(self) -> Iterator[tuple[bytes, Array]]:
        shape = self._manifest.preprocessing.num_queries, self._manifest.architecture.hidden_size
        names = self._named(_EMBEDS)
        if len(names) > self._manifest.decoding.context_length:
            raise self._tensors.damaged("holds more pictures than the context")
        for name in names:
            try:
                digest = bytes.fromhex(name)
            except ValueError as error:
                raise self._tensors.damaged("names a picture wrongly") from error
            yield digest, self._read_finite(_EMBEDS + name, shape, "f").astype(np.float32)

    def _read_messages(self) -> list[dict[str, Any]]:
        data = self._tensors.read("messages", (-1,), "u", MAX_BYTES)
        try:
            return unpack_messages(data.tobytes())
        except ValueError as error:  # not JSON, not UTF-8, no messages
            raise self._tensors.damaged("holds messages that are not valid") from error
