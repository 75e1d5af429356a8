"""How fast is an export, and how small: decoder layers of full width, ours against the stock way.

From one safetensors file to one saved int4 package with `prefill` and `decode`, at the export's
default context. Ours is the part of an export that writes it; the stock way is `stock.py`. Each
runs in a fresh process with all cores, the two taking turns. Imports and compiled kernels are
outside the time, reading and writing inside. CPU time depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import Clock, describe_machine, run_child
from benchmarks.package import folder_bytes, package_error
from benchmarks.palettize import BITS, GROUP_SIZE
from benchmarks.published import PREPROCESSOR, config_values
from benchmarks.shards import write_shard
from export.backends.coreml import CoreMLBackend
from export.build.job import open_job
from export.build.part_cache import place
from export.build.parts import PartRequest, build_part
from export.config import ExportConfig
from export.graphs.graph import Graph
from export.graphs.static.layout import static_decoding
from export.models.tensors import tensor_shapes
from export.plan import Plan
from export.quant.kmeans import palettize
from export.quant.recipe import QuantSpec
from export.releases import load_config, parse_config
from mobile_runtime.errors import InputError
from mobile_runtime.files import this_process, write_json

Seconds = dict[str, Any]  # "wall", "cpu", and wall seconds of each of the "steps"
WEIGHTS = "model.safetensors"
TOLERANCE = 1e-3  # of the ratio of squared errors
_LAYERS = "llm.model.layers."


def write_layers(values: Mapping[str, Any], folder: Path) -> int:
    """Write a checkpoint of only the decoder layers that the config.json `values` describe; return
    the number of their weights. Raises `InputError` if the export would not make one package of
    them."""
    shapes = {
        name: shape
        for name, shape in tensor_shapes(parse_config(values)).items()
        if name.startswith(_LAYERS)
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR), encoding="utf-8")
    plan_decoder(folder)
    write_shard(folder / WEIGHTS, shapes, os.cpu_count() or 1, lambda _: None)
    return sum(math.prod(shape) for shape in shapes.values())


def plan_decoder(folder: Path) -> tuple[Plan, Graph]:
    """The export's plan for `int4-fast`, and the one decoder package in it."""
    job = open_job(folder, ExportConfig(quant="int4-fast"), CoreMLBackend())
    plan = job.plan
    graphs = [graph for graph in plan.graphs if graph.role == "decoder"]
    if len(graphs) > 1:
        raise InputError(
            f"{job.model.decoder.num_layers} layers make {len(graphs)} packages; give fewer "
            "--layers."
        )
    return plan, graphs[0]


def run_ours(folder: Path, package: Path) -> Seconds:
    """The export's own way to this package, digests of all that is read and written included."""
    import export.backends.coreml.package  # noqa: F401  (outside the time)

    warm = np.zeros((GROUP_SIZE, GROUP_SIZE), ml_dtypes.bfloat16)
    palettize(warm, bits=BITS, group_size=GROUP_SIZE, name="warm-up")
    clock = Clock()
    request = PartRequest(
        part=package.stem,
        checkpoint=folder,
        config=ExportConfig(quant="int4-fast"),
        backend=CoreMLBackend.name,
        cache=package.parent / "cache",
        owner=this_process(),
        threads=os.cpu_count() or 1,
    )
    part = build_part(request, lambda _: None)
    place(part.entry, package.parent, CoreMLBackend.allows_hard_links)
    return {**clock.elapsed(), "steps": dict(part.phases)}


def run_stock(folder: Path, package: Path) -> Seconds:
    """The steps of `stock.py`, with the same graph shapes, bits and groups."""
    from benchmarks.stock import write_stock

    clock = Clock()
    model = load_config(folder)
    decoding = static_decoding(ExportConfig(), model)
    spec = QuantSpec("lut", BITS, GROUP_SIZE)
    steps = write_stock(folder / WEIGHTS, model.decoder, decoding, spec, package)
    return {**clock.elapsed(), "steps": steps}


TOOLS = {"ours": run_ours, "coremltools": run_stock}


def run_tool(tool: str, folder: Path, package: Path) -> None:
    """Write the package with one tool; print its seconds as JSON."""
    logging.disable(logging.WARNING)
    seconds = TOOLS[tool](folder, package)
    print(json.dumps({"seconds": seconds}))


def measure(folder: Path, work: Path, repetitions: int, console: Console) -> dict[str, Any]:
    """Run the tools in turn; return for each its runs and the size of its package, left in
    `work`."""
    results: dict[str, Any] = {}
    for n in range(repetitions):
        for tool in TOOLS:
            package = work / f"{tool}-{n}" / "decoder.mlpackage"
            package.parent.mkdir()
            run = run_child("benchmarks.layer", tool, str(folder), str(package))
            console.print(f"{tool}: {run['seconds']['wall']:.2f} s")
            results.setdefault(tool, {"runs": []})["runs"].append(run)
            results[tool]["package_bytes"] = folder_bytes(package)
            results[tool]["package"] = package
    return results


def summarize(results: dict[str, Any]) -> None:
    """Add medians and the ratios of ours to the other."""
    for entry in results.values():
        for kind, key in (("wall", "seconds"), ("cpu", "cpu_seconds")):
            entry[key] = statistics.median(run["seconds"][kind] for run in entry["runs"])
        for kind in ("own", "mapped"):
            entry[f"{kind}_bytes"] = max(run["usage"][kind] for run in entry["runs"])
    ours = results["ours"]
    for entry in results.values():
        entry["ours_is_faster_by"] = entry["seconds"] / ours["seconds"]
        entry["cpu_seconds_to_ours"] = entry["cpu_seconds"] / ours["cpu_seconds"]
        entry["memory_to_ours"] = entry["own_bytes"] / ours["own_bytes"]
        entry["error_of_ours_to_this"] = ours["error"] / entry["error"]


def print_table(results: dict[str, Any], title: str, console: Console) -> None:
    """Print one row per tool."""
    caption = (
        "faster: ours than this. GB: peak memory of all processes, and of mapped file pages. MB: "
        "the package. error: squared, ours / this."
    )
    table = Table(title=title, caption=caption)
    for column in ("tool", "s", "faster", "CPU s", "GB", "× ours", "mapped", "MB", "error"):
        table.add_column(column)
    for tool, entry in results.items():
        table.add_row(
            tool,
            f"{entry['seconds']:.2f}",
            f"{entry['ours_is_faster_by']:.1f} ×",
            f"{entry['cpu_seconds']:.2f}",
            f"{entry['own_bytes'] / 1e9:.2f}",
            f"{entry['memory_to_ours']:.1f} ×",
            f"{entry['mapped_bytes'] / 1e9:.2f}",
            f"{entry['package_bytes'] / 1e6:.1f}",
            f"{entry['error_of_ours_to_this']:.6f}",
        )
    console.print(table)


def compare(values: Mapping[str, Any], repetitions: int, console: Console) -> dict[str, Any]:
    """The whole comparison for the layers that the config.json `values` describe."""
    if repetitions < 1:
        raise InputError(f"--repetitions {repetitions} is not possible; give 1 or more.")
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = work / "checkpoint"
        parameters = write_layers(values, folder)
        results = measure(folder, work, repetitions, console)
        for entry in results.values():
            entry["error"] = package_error(entry.pop("package"), folder)
    summarize(results)
    decoder = {"layers": values["num_hidden_layers"], "parameters": parameters}
    return {"decoder": decoder, **machine, "results": results}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0, 1 if the packages differ in error, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layer", description="Decoder layers against stock coremltools."
    )
    parser.add_argument("--layers", type=int, default=1, help="decoder layers of full width")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", nargs=3, metavar=("TOOL", "IN", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        tool, folder, package = options.child
        run_tool(tool, Path(folder), Path(package))
        return 0
    console = Console()
    try:
        report = compare(config_values(options.layers), options.repetitions, console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = report["results"]
    title = f"decoder layers: {options.layers}, {BITS} bits, groups of {GROUP_SIZE} rows"
    print_table(results, title, console)
    if options.json:
        write_json(options.json, report)
    if abs(results["coremltools"]["error_of_ours_to_this"] - 1) > TOLERANCE:
        print("the packages differ in squared error: this is no fair comparison", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
