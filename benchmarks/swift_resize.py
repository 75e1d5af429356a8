"""Speed of the Swift package in scaling and slicing a picture, beside Pillow, on one thread each.

The two take turns on the same 12-megapixel picture; the views must be equal. The best time of each
counts, of the processor too, which hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe_machine
from mobile_runtime.bundle import Preprocessing
from mobile_runtime.files import write_json
from mobile_runtime.pictures.preprocess import patches, plan_slices, preprocess_image

ROOT = Path(__file__).resolve().parents[1]
HALF = (0.5, 0.5, 0.5)
PUBLISHED = Preprocessing(448, 14, 9, True, True, HALF, HALF, 64, 70, 1088)


def _toolchain(*arguments: str | Path) -> str:
    command = [ROOT / "ios_bridge/toolchain.sh", "run", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def _build() -> Path:
    build = ("swift", "build", "--configuration", "release")
    _toolchain(*build, "--product", "minicpmv")
    return Path(_toolchain(*build, "--show-bin-path").strip()) / "minicpmv"


def _picture(width: int, height: int) -> Image.Image:
    """Smooth, with some noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([127 + 100 * np.sin(x / a + y / b) for a, b in ((40, 90), (7, 300), (250, 9))])
    noise = np.random.default_rng(0).normal(0, 6, waves.shape)
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _pillow(image: Image.Image) -> dict[str, float]:
    """Seconds to the overview and the slices."""
    wall, cpu = time.perf_counter(), time.process_time()
    plan = plan_slices(*image.size, PUBLISHED)
    image.resize(plan.overview_size, Image.Resampling.BICUBIC)
    if plan.refine_size is not None and plan.grid is not None:
        refined = image.resize(plan.refine_size, Image.Resampling.BICUBIC)
        width, height = refined.width // plan.grid[0], refined.height // plan.grid[1]
        for x in range(0, refined.width, width):
            for y in range(0, refined.height, height):
                refined.crop((x, y, x + width, y + height))
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def measure(width: int, height: int, rounds: int) -> dict[str, Any]:
    """Best times of both, over `rounds` rounds."""
    program, image = _build(), _picture(width, height)
    times: dict[str, list[dict[str, float]]] = {"swift": [], "pillow": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.asarray(image).tofile(folder / "picture")
        sides = (str(width), str(height))
        for _ in range(rounds):
            arguments = ("views", folder / "picture", *sides, folder / "views", "--repeat", "3")
            shown = json.loads(_toolchain(program, *arguments))
            for wall, cpu in zip(shown["seconds"], shown["cpu_seconds"], strict=True):
                times["swift"].append({"seconds": wall, "cpu_seconds": cpu})
            times["pillow"] += [_pillow(image) for _ in range(3)]
        got = np.fromfile(folder / "views", "<f4")
    expected = np.concatenate(
        [patches(view).ravel() for view in preprocess_image(image, PUBLISHED)]
    )
    best = {
        tool: {key: min(one[key] for one in runs) for key in ("seconds", "cpu_seconds")}
        for tool, runs in times.items()
    }
    return {
        "size": [width, height],
        **best,
        "ratio": best["swift"]["seconds"] / best["pillow"]["seconds"],
        "cpu_ratio": best["swift"]["cpu_seconds"] / best["pillow"]["cpu_seconds"],
        "views_equal": bool(np.array_equal(got, expected)),
    }


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="4032x3024")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    result = measure(width, height, options.rounds) | describe_machine()
    print(json.dumps(result, indent=1))
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
