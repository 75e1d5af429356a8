"""External data of an ONNX model: where each initializer lies, and a writer that fills them.

All places are known before the first weight arrives, so weights are written one at a time in any
order. Initializers begin at page boundaries, so they can be mapped into memory; no file reaches
2 GB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

_PAGE = 4096
MAX_FILE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Place:
    """Where an initializer lies: file number, first byte, bytes."""

    file: int
    offset: int
    nbytes: int


@dataclass
class DataLayout:
    """Places by initializer, in the order in which they were reserved."""

    limit: int = MAX_FILE_BYTES
    places: dict[str, Place] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=lambda: [0])  # of the files

    def reserve(self, name: str, nbytes: int) -> Place:
        """Return the place of a new initializer, in a new file if the last would grow too large."""
        begin = math.ceil(self.sizes[-1] / _PAGE) * _PAGE
        if begin and begin + nbytes > self.limit:
            self.sizes.append(0)
            begin = 0
        place = Place(len(self.sizes) - 1, begin, nbytes)
        self.places[name], self.sizes[-1] = place, begin + nbytes
        return place


def data_name(model: str, file: int) -> str:
    """Name of a model's data file, numbered as in transformers.js."""
    return f"{model}_data" if file == 0 else f"{model}_data_{file}"


class DataWriter:
    """Writes pieces of initializers to their places."""

    def __init__(self, model: Path, layout: DataLayout) -> None:
        self._layout = layout
        self._files: list[BinaryIO] = []
        for number, size in enumerate(layout.sizes):
            file = model.with_name(data_name(model.name, number)).open("wb")
            file.truncate(size)
            self._files.append(file)

    def write(self, name: str, offset: int, data: np.ndarray) -> None:
        """Write `data` into the initializer, from its byte `offset` on."""
        place, raw = self._layout.places[name], np.ascontiguousarray(data)
        assert offset + raw.nbytes <= place.nbytes, f"{name}: {offset} + {raw.nbytes} bytes"
        file = self._files[place.file]
        file.seek(place.offset + offset)
        file.write(raw.reshape(-1).view(np.uint8).data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()
