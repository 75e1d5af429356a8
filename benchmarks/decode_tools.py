"""The tools of the decoding benchmark: how each builds its model from the checkpoints, how many
bytes a token reads in it, and how a process of its own measures it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.export_command import export_quietly
from benchmarks.llama_cpp import find_bench, run_bench, write_gguf
from benchmarks.quiet import Sample, Stopwatch, time_call

PIECE = 128  # tokens of a piece of the prompt
WINDOW, WINDOWS = 8, 4  # tokens of a sample, samples of a process
ROOM = PIECE + WINDOW * (WINDOWS + 1)  # positions after the context


class NotInstalledError(Exception):
    """A tool that is not here, with the reason."""


@dataclass(frozen=True)
class Tool:
    """`bits` per weight as stored, scales included; `cache_bytes` per number of the cache."""

    bits: float
    cache_bytes: int
    build: Callable[[Path, Path, int], Path]  # checkpoints, new folder, context -> model
    measure: Callable[[Path, int, int], dict[str, list[Sample]]]  # model, threads, context


def bytes_per_token(tool: Tool, decoder: Mapping[str, Any], context: int) -> float:
    """Bytes that one token has to read: every weight of every product, keys and values."""
    size, inner, dim = (decoder[k] for k in ("hidden_size", "intermediate_size", "head_dim"))
    heads, kv_heads = decoder["num_attention_heads"], decoder["num_key_value_heads"]
    layer = 2 * size * dim * (heads + kv_heads) + 3 * size * inner
    layers = decoder["num_hidden_layers"]
    weights = layers * layer + size * decoder["vocab_size"]
    cached = 2 * layers * kv_heads * dim * context
    return float(weights * tool.bits / 8 + cached * tool.cache_bytes)


_FAST = ("--quant", "int4-fast")  # the values do not change the speed


def _ours(backend: str, *flags: str) -> Callable[[Path, Path, int], Path]:
    def build(checkpoints: Path, folder: Path, context: int) -> Path:
        lengths = ["--context-length", str(context + ROOM), "--prefill-length", str(PIECE)]
        return export_quietly(backend, checkpoints / "published", folder, *_FAST, *lengths, *flags)

    return build


def measure_ours(bundle: Path, threads: int, context: int) -> dict[str, list[Sample]]:
    """The runtime's own steps: embedding, decoder, the best token."""
    from mobile_runtime.bundle import read_manifest
    from mobile_runtime.engines import EngineOptions
    from mobile_runtime.model.onnx import OnnxDecoder, OnnxEmbedding, OnnxGraphs

    manifest = read_manifest(bundle)
    graphs = OnnxGraphs(bundle, manifest, EngineOptions(threads=threads))
    embed, decoder = OnnxEmbedding(graphs), OnnxDecoder(graphs, manifest)
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, manifest.architecture.vocab_size, PIECE)

    def prefill() -> None:
        decoder.next_logits(embed(prompt), 0)

    token, position = 0, context

    def step() -> None:
        nonlocal token, position
        token = int(decoder.next_logits(embed(np.array([token])), position).argmax())
        position += 1

    prefill()
    samples = [time_call(prefill, PIECE, threads) for _ in range(2)]
    step()
    for rows in decoder.cache(context).values():  # time does not depend on values, but pages
        rows[...] = rng.integers(-100, 100, rows.shape)  # that were never written cost no reads
    return {"prefill": samples, "decode": _windows(step, threads)}


def _windows(step: Callable[[], None], threads: int) -> list[Sample]:
    def window() -> None:
        for _ in range(WINDOW):
            step()

    window()
    return [time_call(window, WINDOW, threads) for _ in range(WINDOWS)]


def build_genai(checkpoints: Path, folder: Path, context: int) -> Path:
    """onnxruntime-genai's own builder, with logits of only the last position, as in ours."""
    for module in ("onnxruntime_genai", "transformers", "onnx_ir", "torch"):
        if importlib.util.find_spec(module) is None:
            raise NotInstalledError(f"{module} is not installed")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu"]
    where = ["-i", str(checkpoints / "qwen3"), "-o", str(folder), "-c", str(folder / "cache")]
    options = ["int4_block_size=32", "int4_accuracy_level=4", "prune_lm_head=true"]
    command += [*where, "--extra_options", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstalledError(f"its builder failed: {done.stderr.strip().splitlines()[-1]}")
    return folder


def measure_genai(model: Path, threads: int, context: int) -> dict[str, list[Sample]]:
    """Its generator, greedy; its sampling is part of a step."""
    import onnxruntime_genai as genai

    path = model / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config), encoding="utf-8")
    loaded = genai.Model(str(model))
    rng = np.random.default_rng(0)
    vocabulary = config["model"]["vocab_size"]

    def generator(length: int) -> Any:
        parameters = genai.GeneratorParams(loaded)
        room = length + ROOM
        parameters.set_search_options(do_sample=False, max_length=room, min_length=room)
        return genai.Generator(loaded, parameters)

    def append(target: Any) -> None:
        target.append_tokens(rng.integers(0, vocabulary, (1, PIECE)).astype(np.int32))

    filled, *empty = generator(context), *(generator(0) for _ in range(3))
    samples = [time_call(partial(append, target), PIECE, threads) for target in empty][1:]
    for _ in range(context // PIECE):
        append(filled)
    filled.generate_next_token()
    return {"prefill": samples, "decode": _windows(filled.generate_next_token, threads)}


def build_llama_cpp(checkpoints: Path, folder: Path, context: int) -> Path:
    """Q4_0 in every matrix."""
    if find_bench() is None:
        raise NotInstalledError("llama-bench is not on PATH")
    if importlib.util.find_spec("gguf") is None:
        raise NotInstalledError("gguf is not installed")
    folder.mkdir()
    return write_gguf(checkpoints / "qwen3", folder / "q4_0.gguf")


def measure_llama_cpp(model: Path, threads: int, context: int) -> dict[str, list[Sample]]:
    """llama-bench; each of its processes is quiet or not as a whole."""
    bench = find_bench()
    assert bench is not None
    decode = ["-p", "0", "-n", str(WINDOW), "-d", str(context)]
    runs = {"prefill": ["-p", str(PIECE), "-n", "0"], "decode": decode}
    samples = {}
    for name, flags in runs.items():
        watch = Stopwatch()
        seconds = run_bench(bench, model, threads, [*flags, "-r", str(WINDOWS)])
        others = watch.sample(1).others
        tokens = PIECE if name == "prefill" else WINDOW
        samples[name] = [Sample(tokens, value, others) for value in seconds]
    return samples


_HEAD = ("--override", "lm_head=int4")
_WIDE = ("--override", "decoder=int4b128", "--override", "lm_head=int4b128")
TOOLS: Mapping[str, Tool] = {
    "ours, blocks of 32, 8-bit cache": Tool(5.0, 1, _ours("onnx", *_HEAD), measure_ours),
    "ours, blocks of 128, 8-bit cache": Tool(4.25, 1, _ours("onnx", *_WIDE), measure_ours),
    "ours, blocks of 32, float32 cache": Tool(
        5.0, 4, _ours("onnx", *_HEAD, "--kv-cache", "float32"), measure_ours
    ),
    "ours, portable": Tool(5.0, 4, _ours("onnx-portable", *_HEAD), measure_ours),
    "onnxruntime-genai": Tool(5.0, 4, build_genai, measure_genai),
    "llama.cpp Q4_0": Tool(4.5, 2, build_llama_cpp, measure_llama_cpp),
}


def measure_read(threads: int, megabytes: int = 512, rounds: int = 6) -> float:
    """Bytes per second that so many threads read together from memory, at best."""
    from concurrent.futures import ThreadPoolExecutor

    from benchmarks.quiet_read import read_all

    parts = [np.ones(megabytes * 125_000 // threads) for _ in range(threads)]
    read_all(parts[0][:64])
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            watch = Stopwatch()
            list(pool.map(read_all, parts))
            best = max(best, sum(part.nbytes for part in parts) / watch.sample(1).seconds)
    return best


def tool_names() -> Sequence[str]:
    """Names of all tools."""
    return list(TOOLS)
