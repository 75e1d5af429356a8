"""Time and memory of a whole export, and how far it is from what the disk allows.

The shards are dropped from the page cache first; the floor is reading their bytes and writing those
of the bundle, one after the other, with nothing in between.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.full_command import run_command
from benchmarks.machine import run_child

_BLOCK = 1 << 24


def export_child(checkpoint: str, output: str, jobs: str, backend: str, quant: str) -> None:
    """Run one export in this process; print its parts as JSON."""
    from export.backends import BACKENDS
    from export.build.parts import Part
    from export.build.progress import Progress
    from export.config import ExportConfig
    from export.pipeline import export_bundle

    parts: list[Part] = []

    class Listener(Progress):
        def finish(self, part: Part) -> None:
            super().finish(part)
            parts.append(part)

    config = ExportConfig(
        checkpoint=checkpoint,
        output=Path(output),
        quant=quant,
        no_cache=True,
        jobs=int(jobs) if jobs else None,
    )
    started = time.monotonic()
    bundle = export_bundle(config, BACKENDS[backend], Listener())
    report = {
        "seconds": time.monotonic() - started,
        "bundle": bundle.name,
        "bundle_bytes": sum(p.stat().st_size for p in bundle.rglob("*") if p.is_file()),
        "parts": {p.name: {"seconds": p.seconds, **p.phases} for p in parts},
    }
    print(json.dumps(report))


def run_export(
    checkpoint: Path,
    folder: Path,
    jobs: int | None,
    backend: str = "coreml",
    quant: str = "int4-fast",
) -> dict[str, Any]:
    """Run one export in a fresh process, its shards not in the page cache; return seconds, bytes
    and memory. The bundle stays in `folder`."""
    shards = sorted(checkpoint.glob("*.safetensors"))
    drop_from_memory(shards)
    arguments = [str(checkpoint), str(folder), str(jobs or ""), backend, quant]
    started = time.monotonic()
    report = run_child("benchmarks.full_export", *arguments)
    report["seconds_with_start"] = time.monotonic() - started
    report["checkpoint_bytes"] = sum(shard.stat().st_size for shard in shards)
    return report


def drop_from_memory(files: Sequence[Path]) -> None:
    """Take files out of the page cache, as far as the system allows."""
    os.sync()
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_floor(checkpoint: Path, folder: Path, written: int) -> dict[str, float]:
    """Seconds to read the shards and to write `written` bytes to the disk of `folder`."""
    shards = sorted(checkpoint.glob("*.safetensors"))
    drop_from_memory(shards)
    started = time.monotonic()
    for path in shards:
        with path.open("rb", buffering=0) as file:
            while file.read(_BLOCK):
                pass
    read = time.monotonic()
    block = os.urandom(_BLOCK)
    target = folder / "floor.bin"
    with target.open("wb", buffering=0) as file:
        for _ in range(-(-written // _BLOCK)):
            file.write(block)
        os.fsync(file.fileno())
    finished = time.monotonic()
    target.unlink()
    return {"read_seconds": read - started, "write_seconds": finished - read}


def measure(checkpoint: Path, jobs: int | None, quant: str) -> dict[str, Any]:
    """The export and its floor, on the disk of the checkpoint."""
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        report = run_export(checkpoint, Path(folder), jobs, quant=quant)
        shutil.rmtree(folder)
        Path(folder).mkdir()
        floor = measure_floor(checkpoint, Path(folder), report["bundle_bytes"])
    report["floor"] = floor
    report["ratio_to_floor"] = report["seconds_with_start"] / sum(floor.values())
    return report


def print_report(report: dict[str, Any], console: Console) -> None:
    """Parts with their phases, then the whole."""
    phases = ("waiting for weights", "quantizing", "writing")
    table = Table("part", "seconds", *phases)
    for name, part in report["parts"].items():
        cells = (f"{part.get(phase, 0):.1f}" for phase in phases)
        table.add_row(name, f"{part['seconds']:.1f}", *cells)
    console.print(table)
    floor, usage = report["floor"], report["usage"]
    for line in (
        f"{report['seconds_with_start']:.1f} s, {report['ratio_to_floor']:.2f} × the floor "
        f"(reading {floor['read_seconds']:.1f} s, writing {floor['write_seconds']:.1f} s)",
        f"memory of all processes {usage['own'] / 1e9:.2f} GB, mapped pages "
        f"{usage['mapped'] / 1e9:.2f} GB at most",
        f"read {usage['read'] / 1e9:.2f} GB of a checkpoint of "
        f"{report['checkpoint_bytes'] / 1e9:.2f} GB, wrote {usage['written'] / 1e9:.2f} GB for a "
        f"bundle of {report['bundle_bytes'] / 1e9:.2f} GB",
    ):
        console.print(line)


if __name__ == "__main__":
    run_command("full_export", __doc__, export_child, measure, print_report)
