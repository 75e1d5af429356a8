"""How fast the Core ML interpreter runs at full size: a decoder layer, the head, a vision layer.

Packages of random weights in the published widths, by `int4-fast`, run with activations rounded to
half precision. A process measures one call of one tool on all cores; the tools take turns, and what
counts is the fastest sample in which other processes had no part (`quiet.py`). PyTorch computes
only the matrix products and the attention of the same call, from expanded weights. No call can be
faster than its stored weights and states are read: that is the bound, by the speed at which the
same cores read memory. Seconds of the whole model are derived from these, not measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.decode_tools import measure_read
from benchmarks.machine import describe_machine, run_child
from benchmarks.package import folder_bytes
from benchmarks.published import CONFIG, PREPROCESSOR, config_values
from benchmarks.quiet import Sample, choose, time_call
from benchmarks.readme import interpreter_table
from benchmarks.shards import write_shard
from export.backends.coreml import CoreMLBackend
from export.build.part_cache import place
from export.build.parts import PartRequest, build_part
from export.config import ExportConfig
from export.models.tensors import tensor_shapes
from export.releases import parse_config
from mobile_runtime.engines.mil.threads import cores
from mobile_runtime.errors import InputError
from mobile_runtime.files import this_process, write_json

CONTEXT, PROMPT = 4096, 118  # positions of the cache; tokens of the prompt that is derived
_LEFT_OUT = ("embed_tokens", "resampler")  # tensors of no package here
_OURS = "interpreter"
TOOLS = (_OURS, "PyTorch float32", "PyTorch bfloat16")
_BUSY = "while True: pass"  # what a busy neighbour runs


@dataclass(frozen=True)
class Call:
    """One call that is measured: a function of a package with `columns` positions."""

    name: str
    package: str
    function: str
    columns: int


CALLS = (
    Call("decoder layer, one token", "decoder", "decode", 1),
    Call("decoder layer, 64 tokens", "decoder", "prefill", 64),
    Call("head", "lm_head", "main", 1),
    Call("vision layer, one view", "vision_encoder", "main", 1088),
)


def one_layer_of_each() -> dict[str, Any]:
    """config.json of the published widths with one decoder layer and one vision layer."""
    vision = {**CONFIG["vision_config"], "num_hidden_layers": 1}
    return {**config_values(1), "vision_config": vision}


def build_packages(values: Mapping[str, Any], folder: Path, context: int) -> None:
    """Write a checkpoint with the config.json `values` and the packages of `CALLS`."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / "config.json", dict(values))
    write_json(checkpoint / "preprocessor_config.json", dict(PREPROCESSOR))
    shapes = {
        name: shape
        for name, shape in tensor_shapes(parse_config(values)).items()
        if not any(part in name for part in _LEFT_OUT)
    }
    write_shard(checkpoint / "model.safetensors", shapes, cores(), lambda _: None)
    for part in dict.fromkeys(call.package for call in CALLS):
        request = PartRequest(
            part=part,
            checkpoint=checkpoint,
            config=ExportConfig(quant="int4-fast", context_length=context),
            backend=CoreMLBackend.name,
            cache=folder / "cache",
            owner=this_process(),
            threads=cores(),
        )
        built = build_part(request, lambda _: None)
        place(built.entry, folder, CoreMLBackend.allows_hard_links)


def open_package(folder: Path, call: Call) -> Callable[[], object]:
    """The call in the interpreter, with random inputs and a mask that hides nothing."""
    from mobile_runtime.engines.mil import MilEngine

    engine = MilEngine(folder / f"{call.package}.mlpackage", precision="fp16")
    rng, inputs = np.random.default_rng(0), {}
    for spec in engine.functions[call.function].inputs:
        if spec.dtype.startswith("int") or "mask" in spec.name:
            inputs[spec.name] = np.zeros(spec.shape, spec.dtype)
        else:
            inputs[spec.name] = rng.standard_normal(spec.shape).astype(np.float32)
    state = engine.new_state()
    return lambda: engine.run(inputs, function=call.function, state=state)


def matrices(values: Mapping[str, Any], package: str) -> list[tuple[int, int]]:
    """(outputs, inputs) of the matrices of a package's layer."""
    if package == "lm_head":
        return [(values["vocab_size"], values["hidden_size"])]
    if package == "vision_encoder":
        vision = values["vision_config"]
        size, inner = vision["hidden_size"], vision["intermediate_size"]
        patch = 3 * vision["patch_size"] ** 2
        return [(size, patch), *[(size, size)] * 4, (inner, size), (size, inner)]
    size, inner, head = (values[f"{n}"] for n in ("hidden_size", "intermediate_size", "head_dim"))
    queries, keys = (values[f"num_{n}_heads"] * head for n in ("attention", "key_value"))
    attention = [(queries, size), (keys, size), (keys, size), (size, queries)]
    return [*attention, (inner, size), (inner, size), (size, inner)]


def attended(values: Mapping[str, Any], call: Call, context: int) -> list[tuple[int, ...]]:
    """Shapes (1, heads, positions, width) of queries and of keys, none if nothing is attended."""
    if call.package == "lm_head":
        return []
    if call.package == "vision_encoder":
        vision = values["vision_config"]
        heads = vision["num_attention_heads"]
        return [(1, heads, call.columns, vision["hidden_size"] // heads)] * 2
    head, width = values["num_attention_heads"], values["head_dim"]
    return [(1, head, call.columns, width), (1, values["num_key_value_heads"], context, width)]


def open_torch(values: Mapping[str, Any], call: Call, context: int, kind: str) -> Any:
    """The products of the call, and its attention, in PyTorch."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(cores())
    dtype = getattr(torch, kind)
    # Ones, which are written at once: the time does not depend on the values.
    weights = [torch.ones(shape, dtype=dtype) for shape in matrices(values, call.package)]
    columns = [torch.ones(call.columns, weight.shape[1], dtype=dtype) for weight in weights]
    pair = [torch.ones(shape, dtype=dtype) for shape in attended(values, call, context)]

    @torch.inference_mode()
    def run() -> None:
        for x, weight in zip(columns, weights, strict=True):
            functional.linear(x, weight)
        if pair:
            query, key = pair
            functional.scaled_dot_product_attention(query, key, key, enable_gqa=True)

    return run


def time_tool(tool: str, call: Call, folder: Path, samples: int, busy: bool) -> list[Sample]:
    """Samples of one process, after two calls: kernels are compiled, files are in memory."""
    values = json.loads((folder / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    if tool == _OURS:
        run = open_package(folder, call)
    else:
        context = int((folder / "context").read_text(encoding="utf-8"))
        run = open_torch(values, call, context, tool.removeprefix("PyTorch "))
    run()
    run()
    with _neighbour() if busy else _nobody():
        return [time_call(run, 1, 0) for _ in range(samples)]


@contextmanager
def _neighbour() -> Iterator[None]:
    """One other process that is always busy."""
    process = subprocess.Popen([sys.executable, "-c", _BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _nobody() -> Iterator[None]:
    yield


def run_child_process(tool: str, name: str, folder: str, samples: str, busy: str) -> None:
    """Measure in this process; print the samples as JSON."""
    logging.disable(logging.WARNING)
    call = next(call for call in CALLS if call.name == name)
    found = time_tool(tool, call, Path(folder), int(samples), busy == "busy")
    print(json.dumps({"samples": [asdict(sample) for sample in found]}))


def measure(folder: Path, rounds: int, samples: int, console: Console) -> list[dict[str, Any]]:
    """One row per call and tool, the tools in turn; ours once more beside a busy process."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for call in CALLS:
            for tool, busy in (*((tool, "alone") for tool in TOOLS), (_OURS, "busy")):
                key = (call.name, tool if busy == "alone" else busy)
                arguments = (tool, call.name, str(folder), str(samples), busy)
                found.setdefault(key, []).append(run_child("benchmarks.interpreter", *arguments))
                console.print(f"{', '.join(key)}: {_best(found[key])[0].seconds * 1e3:.1f} ms")
    return [_row(call, tool, found, folder) for call in CALLS for tool in TOOLS]


def _best(runs: Sequence[Mapping[str, Any]]) -> tuple[Sample, bool]:
    return choose([Sample(**sample) for run in runs for sample in run["samples"]])


def _row(call: Call, tool: str, found: Mapping[Any, Any], folder: Path) -> dict[str, Any]:
    sample, quiet = _best(found[call.name, tool])
    row = {
        "call": call.name,
        "tool": tool,
        "seconds": sample.seconds,
        "quiet": quiet,
        "own_bytes": max(run["usage"]["own"] for run in found[call.name, tool]),
        "samples": [sample for run in found[call.name, tool] for sample in run["samples"]],
    }
    if tool != _OURS:
        return row
    beside = [sample for run in found[call.name, "busy"] for sample in run["samples"]]
    row["busy_seconds"] = min(sample["seconds"] for sample in beside)
    row["stored_bytes"] = folder_bytes(folder / f"{call.package}.mlpackage")
    return row


def summarize(
    rows: Sequence[dict[str, Any]], read: float, state_bytes: int, published: Mapping[str, Any]
) -> dict[str, Any]:
    """Add each call's bound and its relation to PyTorch; return what follows for the whole model of
    the `published` numbers of layers. `read`: bytes per second. `state_bytes`: of a decoder layer,
    as the interpreter keeps them."""
    ours = {row["call"]: row for row in rows if row["tool"] == _OURS}
    for row in rows:
        mine = ours[row["call"]]
        row["ours_to_this"] = mine["seconds"] / row["seconds"]
    for call in CALLS:
        row = ours[call.name]
        states = state_bytes if call.package == "decoder" else 0
        row["bound_seconds"] = (row["stored_bytes"] + states) / read
        row["busy_to_quiet"] = row["busy_seconds"] / row["seconds"]
    one, many, head, vision = (ours[call.name]["seconds"] for call in CALLS)
    layers = published["num_hidden_layers"]
    blocks = math.ceil(PROMPT / CALLS[1].columns)
    return {
        "layers": layers,
        "seconds_per_token": layers * one + head,
        "prompt_tokens": PROMPT,
        "seconds_per_prompt": blocks * layers * many + head,
        # One layer with the embedding of patches, which the whole tower has once.
        "seconds_per_view_at_most": published["vision_config"]["num_hidden_layers"] * vision,
    }


def compare(
    values: Mapping[str, Any], context: int, rounds: int, samples: int, console: Console
) -> dict[str, Any]:
    """Build, measure, summarize."""
    if min(rounds, samples) < 1:
        raise InputError(f"--rounds {rounds} and --samples {samples}: give 1 or more of each.")
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        console.print("writing weights and packages")
        build_packages(values, folder, context)
        (folder / "context").write_text(str(context), encoding="utf-8")
        rows = measure(folder, rounds, samples, console)
    read = measure_read(cores())
    state_bytes = 2 * 4 * values["num_key_value_heads"] * context * values["head_dim"]
    derived = summarize(rows, read, state_bytes, CONFIG)
    quiet = all(row["quiet"] for row in rows)
    load = "none" if quiet else "other processes took part: only ratios within this file count"
    return {
        **machine,
        "threads": cores(),
        "context": context,
        "load": load,
        "read_bytes_per_second": read,
        "rows": rows,
        "derived": derived,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.interpreter",
        description="The Core ML interpreter at full size, beside PyTorch.",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=5, help="per turn (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        run_child_process(*options.child)
        return 0
    console = Console(highlight=False)
    try:
        values = one_layer_of_each()
        report = compare(values, CONTEXT, options.rounds, options.samples, console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console.print(interpreter_table(report))
    if options.json:
        write_json(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
