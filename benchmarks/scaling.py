"""Does an export's time grow with the layers, and its memory not?

Checkpoints of the published width with a growing number of decoder layers, each made, exported and
removed again.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.full_export import run_export
from benchmarks.machine import describe_machine
from benchmarks.published import config_values
from benchmarks.synthesize import write_checkpoint
from mobile_runtime.files import write_json

LAYERS = (4, 8, 16, 36)


def measure(layers: int, folder: Path, jobs: int | None) -> dict[str, Any]:
    """Make a checkpoint in `folder`, export it, remove both."""
    checkpoint = folder / f"layers-{layers}"
    write_checkpoint(config_values(layers), checkpoint, Console(quiet=True))
    report = run_export(checkpoint, folder / "out", jobs)
    shutil.rmtree(checkpoint)
    shutil.rmtree(folder / "out")
    return {"layers": layers, **report}


def print_table(rows: list[dict[str, Any]], console: Console) -> None:
    """Seconds for each GB of weights should stay the same, memory too."""
    table = Table("decoder layers", "GB read", "seconds", "seconds / GB", "memory, GB")
    for row in rows:
        size = row["checkpoint_bytes"] / 1e9
        seconds = row["seconds_with_start"]
        cells = (
            f"{size:.1f}",
            f"{seconds:.1f}",
            f"{seconds / size:.2f}",
            f"{row['usage']['own'] / 1e9:.2f}",
        )
        table.add_row(str(row["layers"]), *cells)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("folder", type=Path, help="on a disk with 25 GB of room")
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--jobs", type=int, help="processes; default: the export's")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    machine, console = describe_machine(), Console(highlight=False)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = [measure(layers, Path(folder), options.jobs) for layers in options.layers]
    print_table(rows, console)
    if options.json:
        write_json(options.json, {**machine, "rows": rows})


if __name__ == "__main__":
    main()
