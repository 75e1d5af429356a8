"""Writes a checkpoint of MiniCPM-V 4.5's full size with random weights, to measure an export with.

Names, shapes, types and shards are the published ones, the weights heavy-tailed (`weights.py`); a
cut one holds the first decoder layers of the whole. Memory holds a few million weights at a time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from benchmarks.published import CONFIG, PREPROCESSOR, config_values
from benchmarks.shards import tensor_bytes, write_shards
from benchmarks.vocabulary import build_tokenizer
from export.models.tensors import tensor_shapes
from export.releases import DEFAULT_RELEASE, parse_config
from export.releases.release import RELEASE_NAME
from mobile_runtime.errors import InputError
from mobile_runtime.files import scratch_folder

_SPARE_BYTES = 50_000_000  # tokenizer, file system
# A bundle made from it must not bear the published name, nor the licence of the published weights.
_RELEASE = replace(
    DEFAULT_RELEASE.facts, name="minicpmv-4.5-random", license="none: random weights"
)


def write_checkpoint(
    values: Mapping[str, Any], folder: Path, console: Console, threads: int | None = None
) -> int:
    """Write the checkpoint that the config.json `values` describe; return the bytes of its weights.

    `folder` appears when it is complete.
    """
    shapes = tensor_shapes(parse_config(values))
    total = sum(map(tensor_bytes, shapes.values()))
    if folder.exists():
        raise InputError(f"{folder} exists already; remove it or give another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _check_disk(folder.parent, total + _SPARE_BYTES)
    with scratch_folder(folder) as partial, _progress(console) as progress:
        _write_json(partial / "config.json", values)
        _write_json(partial / "preprocessor_config.json", PREPROCESSOR)
        _write_json(partial / RELEASE_NAME, _RELEASE.as_json())
        tokenizer = build_tokenizer(values["vocab_size"], values["bos_token_id"])
        tokenizer.save(str(partial / "tokenizer.json"), pretty=False)
        task = progress.add_task("weights", total=total)
        write_shards(partial, shapes, lambda size: progress.advance(task, size), threads)
        partial.rename(folder)
    return total


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the checkpoint needs {needed:,} bytes, {folder} has {free:,} free; make room, give "
            "another folder, or fewer --layers."
        )


def _progress(console: Console) -> Progress:
    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), BarColumn(), *columns, console=console)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _check_layers(layers: int) -> int:
    deepest = CONFIG["num_hidden_layers"]
    if not 1 <= layers <= deepest:
        raise InputError(f"--layers {layers} is not possible; give 1 to {deepest}.")
    return layers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthesize",
        description="Write a checkpoint with random weights in the published layout.",
    )
    parser.add_argument("size", choices=["full"], help="full: the published widths, 17.4 GB")
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument(
        "--layers",
        type=int,
        default=CONFIG["num_hidden_layers"],
        metavar="N",
        help="keep the first N decoder layers only (386 MB each, beside 3.5 GB)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write it; the folder is the last line on stdout. Returns 0, or 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    try:
        values = config_values(_check_layers(options.layers))
        size = write_checkpoint(values, options.folder, console)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    seconds = time.monotonic() - started
    console.print(f"{size / 1e9:.1f} GB in {seconds:.0f} s ({size / 1e6 / seconds:,.0f} MB/s)")
    print(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
