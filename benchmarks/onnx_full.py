"""The whole model for onnxruntime: its export, then how it opens and runs, and in which memory.

After the export, fresh processes open the decoder, read a prompt and write a few tokens: with the
weights copied into the order of the kernels, with that order being written to disk, and with it
mapped from there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.full_export import drop_from_memory, run_export
from benchmarks.machine import describe_machine, run_child, version

PROMPT, STEPS = 128, 8  # tokens
WAYS = ("copied", "written", "mapped")


def run_decoder(bundle: str, prepacked: str) -> None:
    """Open the decoder, read a prompt, write tokens; print seconds as JSON."""
    from mobile_runtime.bundle import read_manifest
    from mobile_runtime.engines import EngineOptions
    from mobile_runtime.onnx_graphs import OnnxDecoder, OnnxEmbedding, OnnxGraphs

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


def measure(checkpoint: Path, jobs: int | None) -> dict[str, Any]:
    """Export and runs, on the disk of the checkpoint."""
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as name:
        folder = Path(name)
        report: dict[str, Any] = {"export": run_export(checkpoint, folder, jobs, "onnx")}
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_full", description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="from benchmarks.synthesize")
    parser.add_argument("--jobs", type=int, help="processes; default: the export's")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_decoder(*options.child)
        return
    if options.checkpoint is None or not options.checkpoint.is_dir():
        parser.error("give the folder of a checkpoint, such as benchmarks.synthesize makes")
    machine = describe_machine()
    machine["versions"] |= {name: version(name) for name in ("onnx", "onnxruntime")}
    report = measure(options.checkpoint.resolve(), options.jobs)
    print_report(report, Console(highlight=False))
    if options.json:
        text = json.dumps({**machine, **report}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
