"""How fast is the palettizer, and how good: ours against coremltools' and coreai-opt's k-means.

Every tool palettizes the same bf16-valued matrix (4 bits, groups of 16 rows) and writes the indices
to disk, each time in a fresh process with all cores, the tools taking turns. Loading, conversion
to the tool's own form and compiled kernels are outside the time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine, run_child
from benchmarks.weights import draw_tensor
from mobile_runtime.files import write_json

BITS, GROUP_SIZE = 4, 16
Indices = NDArray[np.uint8]
Tables = NDArray[Any]  # (groups, 16)
Result = tuple[float, Indices, Tables]  # seconds, what was chosen


def run_ours(values: NDArray[Any], folder: Path) -> Result:
    """export.quant.kmeans, one thread per core."""
    from export.quant.kmeans import palettize

    palettize(values[:GROUP_SIZE], bits=BITS, group_size=GROUP_SIZE, name="warm-up")
    start = time.perf_counter()
    weight = palettize(values, bits=BITS, group_size=GROUP_SIZE, name="weight")
    weight.packed.tofile(folder / "indices.bin")
    weight.lut.tofile(folder / "lut.bin")
    return time.perf_counter() - start, weight.indices(), weight.lut


def run_coremltools(values: NDArray[Any], folder: Path) -> Result:
    """cto.coreml.palettize_weights on a program with one linear layer; a worker for every core."""
    import coremltools as ct
    import coremltools.optimize.coreml as cto
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    weight = values.astype(np.float16)
    spec = mb.TensorSpec((1, weight.shape[1]), dtype=types.fp16)

    @mb.program(input_specs=[spec], opset_version=ct.target.iOS18)  # type: ignore[untyped-decorator]
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=weight)

    model = ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
    config = cto.OpPalettizerConfig(
        mode="kmeans",
        nbits=BITS,
        granularity="per_grouped_channel",
        group_size=GROUP_SIZE,
        num_kmeans_workers=os.cpu_count(),
    )
    start = time.perf_counter()
    compressed = cto.palettize_weights(model, cto.OptimizationConfig(global_config=config))
    compressed.save(str(folder / "linear.mlpackage"))
    seconds = time.perf_counter() - start
    (operation,) = compressed._mil_program.functions["main"].find_ops(
        op_type="constexpr_lut_to_dense"
    )
    return seconds, operation.indices.val, operation.lut.val.reshape(-1, 1 << BITS)


def run_coreai_opt(values: NDArray[Any], folder: Path) -> Result:
    """KMeansPalettizer.prepare; a worker takes whole layers, so each core gets a slice of rows."""
    import torch
    from coreai_opt import palettization as cai
    from coreai_opt.palettization.spec import PerGroupedChannelGranularity

    workers = os.cpu_count() or 1
    slices = np.array_split(values.astype(np.float32), workers)

    class Slices(torch.nn.ModuleList):
        def forward(self, x: Any) -> list[Any]:
            return [layer(x) for layer in self]

    model = Slices(torch.nn.Linear(part.shape[1], part.shape[0], bias=False) for part in slices)
    for layer, part in zip(model, slices, strict=True):
        layer.weight.data = torch.from_numpy(part)
    granularity = PerGroupedChannelGranularity(axis=0, group_size=GROUP_SIZE)
    spec = cai.PalettizationSpec(n_bits=BITS, granularity=granularity)
    module = cai.ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec})
    config = cai.KMeansPalettizerConfig(global_config=module)
    start = time.perf_counter()
    palettizer = cai.KMeansPalettizer(model, config)
    prepared = palettizer.prepare((torch.zeros(1, values.shape[1]),), num_workers=workers)
    chosen = {name: buffer.numpy() for name, buffer in prepared.named_buffers()}
    indices, lut = (
        np.concatenate([chosen[f"{i}.parametrizations.weight.0.{key}"] for i in range(workers)])
        for key in ("indices", "centroids")
    )
    (indices[:, ::2] | indices[:, 1::2] << 4).tofile(folder / "indices.bin")
    return time.perf_counter() - start, indices, lut.reshape(-1, 1 << BITS)


TOOLS: dict[str, Callable[[NDArray[Any], Path], Result]] = {
    "ours": run_ours,
    "coremltools": run_coremltools,
    "coreai_opt": run_coreai_opt,
}


def squared_error(values: NDArray[Any], indices: Indices, lut: Tables) -> float:
    """Sum of squared differences to the given bfloat16 values, tables rounded to float16."""
    entries = lut.astype(np.float16).astype(np.float64)
    total = 0.0
    for group, table in enumerate(entries):
        rows = slice(group * GROUP_SIZE, (group + 1) * GROUP_SIZE)
        total += float(((values[rows].astype(np.float64) - table[indices[rows]]) ** 2).sum())
    return total


def run_tool(tool: str, weights: Path) -> None:
    """Palettize the file's matrix with one tool and print seconds and squared error as JSON."""
    values = np.load(weights).view(ml_dtypes.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        seconds, indices, lut = TOOLS[tool](values, Path(folder))
    print(json.dumps({"seconds": seconds, "error": squared_error(values, indices, lut)}))


def measure(rows: int, columns: int, repetitions: int, console: Console) -> dict[str, Any]:
    """Run the installed tools in turn; return for each its times, or "not installed"."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npy"
        np.save(weights, draw_tensor("palettize.weight", (rows, columns)).view(np.uint16))
        for _ in range(repetitions):
            for tool in TOOLS:
                if tool != "ours" and importlib.util.find_spec(tool) is None:
                    results[tool] = "not installed"
                    continue
                run = run_child("benchmarks.palettize", tool, str(weights))
                console.print(f"{tool}: {run['seconds']:.3f} s")
                entry = results.setdefault(tool, {"seconds": [], "error": run["error"]})
                entry["seconds"].append(run["seconds"])
    return results


def summarize(results: dict[str, Any], parameters: int) -> None:
    """Add rates and the ratios of ours to each other tool."""
    ours = results["ours"]
    for entry in results.values():
        if isinstance(entry, dict):
            entry["parameters_per_second"] = parameters / statistics.median(entry["seconds"])
            entry["slowest_to_fastest"] = max(entry["seconds"]) / min(entry["seconds"])
    for entry in results.values():
        if isinstance(entry, dict):
            entry["ours_is_faster_by"] = (
                ours["parameters_per_second"] / entry["parameters_per_second"]
            )
            entry["error_of_ours_to_this"] = ours["error"] / entry["error"]


def print_table(results: dict[str, Any], title: str, console: Console) -> None:
    """Print one row per tool: median rate, spread, squared error, ratios."""
    table = Table(title=title)
    for column in ("tool", "M weights/s", "slow/fast", "error", "ours faster", "ours/error"):
        table.add_column(column)
    for tool, entry in results.items():
        if not isinstance(entry, dict):
            table.add_row(tool, entry)
            continue
        table.add_row(
            tool,
            f"{entry['parameters_per_second'] / 1e6:.1f}",
            f"{entry['slowest_to_fastest']:.2f}",
            f"{entry['error']:.6g}",
            f"{entry['ours_is_faster_by']:.1f} ×",
            f"{entry['error_of_ours_to_this']:.6f}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Palettizer against coremltools and coreai-opt.")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=12288)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", nargs=2, metavar=("TOOL", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_tool(arguments.child[0], Path(arguments.child[1]))
        return
    console = Console()
    machine = describe_machine()
    results = measure(arguments.rows, arguments.columns, arguments.repetitions, console)
    summarize(results, arguments.rows * arguments.columns)
    title = f"{BITS} bits, groups of {GROUP_SIZE} rows, {arguments.rows} × {arguments.columns}"
    print_table(results, title, console)
    if arguments.json:
        report = {"matrix": [arguments.rows, arguments.columns], **machine, "results": results}
        write_json(arguments.json, report)


if __name__ == "__main__":
    main()
