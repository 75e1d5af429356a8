"""Speed and error of the ONNX vision tower in each storage form, beside PyTorch in float32.

Speed: two layers of the published width with random weights, one view of 1,024 patches. A process
measures one tower at one number of threads; they take turns, and what counts is the fastest sample
in which other processes had no part (`quiet.py`). Exactness: real weights, whose activations have
outliers (`whisper.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import wave
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import whisper
from benchmarks.machine import Child, describe_machine, version
from benchmarks.quiet import Sample, choose, time_call
from benchmarks.readme import vision_table
from benchmarks.vision_tower import (
    FORMS,
    VISION,
    export_form,
    open_bundle,
    open_reference,
    outliers,
    write_tower,
)
from mobile_runtime.files import write_json
from validation.parity.metrics import cosine, psnr

PATCHES, SAMPLES = 1024, 2  # of a view; of a process
REFERENCE = "PyTorch"
_RATE = 16_000
Key = tuple[str, int]  # tower and threads


def build_towers(folder: Path, checkpoint: Path) -> dict[str, Path]:
    """The checkpoint for PyTorch, and a bundle of each storage form in `folder`."""
    bundles = {form: export_form(checkpoint, folder / form, form) for form in FORMS}
    return {REFERENCE: checkpoint, **bundles}


def time_tower(name: str, path: Path, threads: int, patches: int) -> list[Sample]:
    """Views of one process, after a first one."""
    run = (open_reference if name == REFERENCE else open_bundle)(path, threads)
    rng = np.random.default_rng(0)
    pixel_values = rng.uniform(-1, 1, (1, patches, 3 * VISION["patch_size"] ** 2))
    inputs = pixel_values.astype(np.float32), np.arange(patches)[None]
    run(*inputs)
    return [time_call(lambda: run(*inputs), 1, threads) for _ in range(SAMPLES)]


def run_tower(name: str, path: Path, threads: int, patches: int) -> list[Sample]:
    """The samples of one process."""
    arguments = [name, str(path), str(threads), str(patches)]
    found = Child("benchmarks.onnx_vision", *arguments).result()
    return [Sample(**sample) for sample in found]


def summarize(samples: Mapping[Key, Sequence[Sample]]) -> list[dict[str, Any]]:
    """One row per tower and number of threads, with its speed relative to PyTorch's."""
    best = {key: choose(found) for key, found in samples.items()}
    return [
        {
            "tower": name,
            "threads": threads,
            "views_per_second": sample.rate,
            "quiet": quiet,
            "to_reference": sample.rate / best[REFERENCE, threads][0].rate,
            "samples": [asdict(sample) for sample in samples[name, threads]],
        }
        for (name, threads), (sample, quiet) in best.items()
    ]


def measure(options: argparse.Namespace, folder: Path, console: Console) -> list[dict[str, Any]]:
    """Speed of all towers, in turn."""
    vision = {**VISION, "num_hidden_layers": options.layers}
    towers = build_towers(folder, write_tower(folder / "random", vision))
    samples: dict[Key, list[Sample]] = {}
    for _ in range(options.rounds):
        for threads in options.threads:
            for name, path in towers.items():
                found = run_tower(name, path, threads, options.patches)
                samples.setdefault((name, threads), []).extend(found)
                seconds = min(sample.seconds for sample in found)
                console.print(f"{name}, threads {threads}: {seconds:.2f} s per view")
    return summarize(samples)


def compare(files: Sequence[Path], sounds: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Compare each storage form of Whisper's encoder with the encoder in PyTorch: over all
    positions as one vector, at the worst position, and in decibels of the largest value."""
    tensors = whisper.read_model(files)
    checkpoint = write_tower(folder / "whisper", whisper.VISION, whisper.vision_tensors(tensors))
    towers = build_towers(folder / "whisper-towers", checkpoint)
    sound = np.concatenate([_read(path) for path in sounds]) if sounds else whisper.voice()
    values = whisper.patch_values(tensors, whisper.log_mel(sound[: whisper.SECONDS * _RATE]))
    inputs = values, np.arange(values.shape[1])[None]
    expected = open_reference(checkpoint, 1)(*inputs)[0]
    rows = []
    for form in FORMS:
        got = open_bundle(towers[form], 1)(*inputs)[0]
        at_positions = [cosine(*pair) for pair in zip(got, expected, strict=True)]
        row = {"tower": form, "cosine": cosine(got, expected), "worst": min(at_positions)}
        rows.append({**row, "decibels": psnr(got, expected)})
    return {
        "weights": whisper.PACKAGES,
        "sound": [path.name for path in sounds] or "synthesized voice",
        "positions": values.shape[1],
        "outliers": outliers(checkpoint, *inputs),
        "rows": rows,
    }


def _read(path: Path) -> np.ndarray:
    """Samples of a 16-bit WAV file, between -1 and 1."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (_RATE, 1, 2):
            raise SystemExit(f"{path} must be a WAV file of one channel, 16 bits, 16 kHz.")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(1 << 15)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx_vision", description="The ONNX vision tower and PyTorch."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--layers", type=int, default=VISION["num_hidden_layers"])
    parser.add_argument("--patches", type=int, default=PATCHES)
    parser.add_argument(
        "--whisper",
        type=Path,
        nargs="+",
        metavar="FILE",
        help=f"measure exactness too: the wheels of {' and '.join(whisper.PACKAGES)}",
    )
    parser.add_argument(
        "--sound",
        type=Path,
        nargs="+",
        default=[],
        metavar="WAV",
        help="what that encoder hears: one channel, 16 kHz (default: a synthesized voice)",
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    options = _parser().parse_args(arguments)
    if options.child:
        name, path, threads, patches = options.child
        found = time_tower(name, Path(path), int(threads), int(patches))
        print(json.dumps([asdict(sample) for sample in found]))
        return 0
    console = Console(highlight=False)
    report = describe_machine()
    report["versions"] |= {package: version(package) for package in ("onnx", "onnxruntime")}
    report |= {"layers": options.layers, "patches": options.patches}
    with tempfile.TemporaryDirectory() as temporary:
        report["rows"] = measure(options, Path(temporary), console)
        if options.whisper:
            report["exactness"] = compare(options.whisper, options.sound, Path(temporary))
    console.print(vision_table(report), soft_wrap=True)
    if options.json:
        write_json(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
