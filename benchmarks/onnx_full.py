"""The whole model for onnxruntime: its export, then how it opens and runs, and in which memory.

After the export, fresh processes open the decoder, read a prompt and write a few tokens: with the
weights copied into the order of the kernels, with that order being written to disk, and with it
mapped from there.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.full_command import run_command
from benchmarks.full_export import drop_from_memory, run_export
from benchmarks.machine import run_child

PROMPT, STEPS = 128, 8  # tokens
WAYS = ("copied", "written", "mapped")


def run_decoder(bundle: str, prepacked: str) -> None:
    """Open the decoder, read a prompt, write tokens; print seconds as JSON."""
    from mobile_runtime.bundle import read_manifest
    from mobile_runtime.engines import EngineOptions
    from mobile_runtime.model.onnx import OnnxDecoder, OnnxEmbedding, OnnxGraphs

    manifest = read_manifest(Path(bundle))
    options = EngineOptions(prepacked=Path(prepacked) if prepacked else None)
    graphs = OnnxGraphs(Path(bundle), manifest, options)
    embed, decoder = OnnxEmbedding(graphs), OnnxDecoder(graphs, manifest)
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, manifest.architecture.vocab_size, PROMPT)
    times = [time.perf_counter()]
    assert graphs["decoder"]
    times.append(time.perf_counter())
    tokens = [int(decoder.next_logits(embed(prompt), 0).argmax())]
    times.append(time.perf_counter())
    for step in range(STEPS):
        logits = decoder.next_logits(embed(np.array(tokens[-1:])), PROMPT + step)
        tokens.append(int(logits.argmax()))
    times.append(time.perf_counter())
    load, prefill, decode = np.diff(times)
    print(json.dumps({"load": load, "prefill": prefill, "decode": decode, "tokens": tokens}))


def measure(checkpoint: Path, jobs: int | None, quant: str) -> dict[str, Any]:
    """Export and runs, on the disk of the checkpoint."""
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as name:
        folder = Path(name)
        report: dict[str, Any] = {"export": run_export(checkpoint, folder, jobs, "onnx", quant)}
        bundle = folder / report["export"]["bundle"]
        for way in WAYS:
            drop_from_memory([path for path in folder.rglob("*") if path.is_file()])
            cache = "" if way == "copied" else str(folder / "prepacked")
            report[way] = run_child("benchmarks.onnx_full", str(bundle), cache)
        report["prepacked_bytes"] = sum(
            path.stat().st_size for path in (folder / "prepacked").rglob("*") if path.is_file()
        )
    if len({tuple(report[way]["tokens"]) for way in WAYS}) != 1:
        raise SystemExit("the ways wrote different tokens")
    return report


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """The export in a line, the ways in a table."""
    export = report["export"]
    console.print(
        f"export {export['seconds_with_start']:.0f} s, memory of all processes "
        f"{export['usage']['own'] / 1e9:.2f} GB, bundle {export['bundle_bytes'] / 1e9:.2f} GB; "
        f"prepacked weights {report['prepacked_bytes'] / 1e9:.2f} GB"
    )
    columns = ("weights", "load, s", f"{PROMPT} tokens in, s", f"{STEPS} out, s")
    table = Table(*columns, "own memory, GB", "mapped, GB")
    for way in WAYS:
        row = report[way]
        times = [f"{row[name]:.1f}" for name in ("load", "prefill", "decode")]
        memory = [f"{row['usage'][name] / 1e9:.2f}" for name in ("own", "mapped")]
        table.add_row(way, *times, *memory)
    console.print(table)


if __name__ == "__main__":
    run_command("onnx_full", __doc__, run_decoder, measure, print_report, ("onnx", "onnxruntime"))
