"""Speed of the ONNX decoder in decode and prefill, beside its peers and the bound of the memory.

All run one Qwen3 of 0.5 billion random weights with 4 bits in every matrix, the head included. A
process measures one tool at one number of threads and one context; the tools take turns. What
counts is the fastest sample in which other processes had no part (`quiet.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.decode_model import DECODER, write_layouts
from benchmarks.decode_tools import (
    TOOLS,
    NotInstalledError,
    bytes_per_token,
    measure_read,
    tool_names,
)
from benchmarks.machine import Child, describe_machine, version
from benchmarks.quiet import Sample, choose
from mobile_runtime.files import write_json

_PACKAGES = ("onnx", "onnxruntime", "onnxruntime-genai", "transformers", "gguf")
Key = tuple[int, int]  # threads, context


def build_all(work: Path, tools: Iterable[str], context: int, console: Console) -> dict[str, Any]:
    """Build the model of each tool in `work`; return it, or the reason why there is none."""
    if not (work / "checkpoints").is_dir():
        write_layouts(work / "checkpoints")
    models: dict[str, Any] = {}
    for number, name in enumerate(TOOLS):
        folder = work / f"model-{number}"
        if name not in tools:
            continue
        done = folder / "done"
        if done.is_file():
            models[name] = Path(done.read_text(encoding="utf-8"))
            continue
        console.print(f"building: {name}")
        try:
            models[name] = TOOLS[name].build(work / "checkpoints", folder, context)
            done.write_text(str(models[name]), encoding="utf-8")
        except NotInstalledError as error:
            models[name] = str(error)
    return models


def run_tool(tool: str, model: Path, key: Key) -> dict[str, list[Sample]]:
    """The samples of one process."""
    found = Child("benchmarks.onnx_decode", tool, str(model), *map(str, key)).result()
    return {kind: [Sample(**sample) for sample in samples] for kind, samples in found.items()}


def measure(
    models: dict[str, Any], keys: Sequence[Key], rounds: int, console: Console
) -> dict[tuple[str, Key], dict[str, list[Sample]]]:
    """Samples of every tool, threads and context, the tools in turn."""
    samples: dict[tuple[str, Key], dict[str, list[Sample]]] = {}
    for _ in range(rounds):
        for key in keys:
            for tool, model in models.items():
                if isinstance(model, str):
                    continue
                held = samples.setdefault((tool, key), {"prefill": [], "decode": []})
                for kind, found in run_tool(tool, model, key).items():
                    held[kind] += found
                rate = choose(held["decode"])[0].rate
                console.print(f"{tool}, threads {key[0]}, context {key[1]}: {rate:.1f} tokens/s")
    return samples


def summarize(
    models: dict[str, Any],
    samples: dict[tuple[str, Key], dict[str, list[Sample]]],
    read: dict[int, float],
) -> list[dict[str, Any]]:
    """One row per tool, threads and context; a tool that did not run has one row with the
    reason."""
    rows: list[dict[str, Any]] = [
        {"tool": tool, "not_run": model} for tool, model in models.items() if isinstance(model, str)
    ]
    for (tool, (threads, context)), kinds in samples.items():
        row: dict[str, Any] = {"tool": tool, "threads": threads, "context": context}
        for kind, found in kinds.items():
            best, quiet = choose(found)
            row[kind] = best.rate
            row[f"{kind}_quiet"] = quiet
            row[f"{kind}_samples"] = [asdict(sample) for sample in found]
        row["bytes_per_token"] = bytes_per_token(TOOLS[tool], DECODER, context)
        row["bound"] = read[threads] / row["bytes_per_token"]
        row["share_of_bound"] = row["decode"] / row["bound"]
        rows.append(row)
    return rows


def print_table(rows: Sequence[dict[str, Any]], read: dict[int, float], console: Console) -> None:
    """Print tokens per second; a star marks what was measured beside other processes."""
    table = Table("tool", "threads", "context", "decode", "of the bound", "prefill")
    for row in rows:
        if "not_run" in row:
            table.add_row(row["tool"], f"not run: {row['not_run']}")
            continue
        decode, prefill = (
            f"{row[kind]:.1f}{'' if row[f'{kind}_quiet'] else ' *'}"
            for kind in ("decode", "prefill")
        )
        share = f"{row['share_of_bound']:.0%}"
        table.add_row(row["tool"], str(row["threads"]), str(row["context"]), decode, share, prefill)
    console.print(table)
    for threads, rate in read.items():
        console.print(f"threads: {threads}, memory read at {rate / 1e9:.1f} GB/s")


def compare(options: argparse.Namespace, work: Path, console: Console) -> dict[str, Any]:
    """Build, measure, summarize."""
    machine = describe_machine()
    machine["versions"] |= {package: version(package) for package in _PACKAGES}
    models = build_all(work, options.peers or tool_names(), max(options.contexts), console)
    keys = [(threads, context) for threads in options.threads for context in options.contexts]
    read = {threads: measure_read(threads) for threads in options.threads}
    samples = measure(models, keys, options.rounds, console)
    rows = summarize(models, samples, read)
    print_table(rows, read, console)
    return {**machine, "decoder": dict(DECODER), "read_bytes_per_second": read, "rows": rows}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx_decode", description="The ONNX decoder and its peers."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--peers", nargs="+", choices=tool_names(), help="default: all")
    parser.add_argument("--work", type=Path, help="keep checkpoints and models in this folder")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    options = _parser().parse_args(arguments)
    if options.child:
        tool, model, threads, context = options.child
        found = TOOLS[tool].measure(Path(model), int(threads), int(context))
        print(json.dumps({kind: [asdict(s) for s in samples] for kind, samples in found.items()}))
        return 0
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        report = compare(options, work, console)
    if options.json:
        write_json(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
