"""The commands `describe` and `run`, for a package of anyone's.

The interpreter is imported when one runs: its compiler takes longer than printing a help.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobile_runtime.command import (
    Terminal,
    add_interpreter,
    add_limits,
    add_precision,
    limits_of,
)
from mobile_runtime.errors import InputError
from mobile_runtime.files import check_place, written_whole
from mobile_runtime.mlprogram.description import Feature
from mobile_runtime.package.inputs import check_names
from mobile_runtime.package.pictures import fit_picture
from mobile_runtime.package.report import print_fallbacks, print_outputs, print_package
from mobile_runtime.pictures.images import load_image

DESCRIBE = "tell what a Core ML package holds, and whether it runs here"
RUN = "run a Core ML package on files"


def add_describe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `describe`."""
    parser.add_argument("package", type=Path, help="a .mlpackage")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def describe(options: argparse.Namespace) -> int:
    """Print what a package holds; return 0, also for a package that does not run here."""
    from mobile_runtime.package.described import describe_package

    described = describe_package(options.package)
    if options.json:
        print(json.dumps(described.as_json(), indent=1, ensure_ascii=False))
    else:
        print_package(options.package.name, described, Terminal())
    return 0


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    parser.add_argument("package", type=Path, help="a .mlpackage")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="an array as .npy, a picture, or a number in place of a file; may be repeated",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="npz file for the outputs")
    parser.add_argument("--function", help="which function (default: the package's default)")
    add_interpreter(parser)
    add_precision(parser)
    add_limits(parser)
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="NAME",
        help="a value inside of the program to give too; may be repeated",
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="stretch pictures of other sizes than the input takes to its own size",
    )


def run(options: argparse.Namespace) -> int:
    """Run a package, print a table of its outputs and write them; return 0."""
    from mobile_runtime.package.described import describe_package
    from mobile_runtime.package.package import Package

    limits = limits_of(options)
    if options.output is not None:
        check_place(options.output)
    described = describe_package(options.package).model
    interface = described.interface(options.function, options.package.name)
    given = dict(_split(item) for item in options.input)
    check_names(interface, given, options.package.name)
    features = {feature.name: feature for feature in interface.inputs}
    inputs = {key: _read(features[key], text, options.resize) for key, text in given.items()}
    package = Package(
        options.package,
        precision=options.precision,
        engine=options.engine,
        device=options.device,
        limits=limits,
    )
    outputs = package.predict(inputs, function=options.function, keep=options.keep)
    print_outputs(outputs, Terminal())
    print_fallbacks(package.fallbacks, Terminal())
    if options.output is not None:
        with written_whole(options.output) as partial, partial.open("wb") as file:
            np.savez(file, **as_arrays(outputs))
        print(options.output)
    return 0


def _split(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not (name and equals and value):
        raise InputError(f"--input got {item!r}; give NAME=FILE, such as image=photo.jpg.")
    return name, value


def _read(feature: Feature, text: str, resize: bool) -> Any:
    """The value of an input: a picture if the input is one, or an array, or a number."""
    path = Path(text)
    if path.suffix == ".npy":
        return load_array(path)
    if feature.kind == "picture":
        return fit_picture(feature, load_image(path), resize)
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise InputError(
            f"--input {feature.name} got {text!r}; give a .npy file or a number: it is no picture."
        ) from None


def load_array(path: Path) -> Any:
    """The array in a .npy file, or the arrays of a .npz file by name. Raises `InputError` if it is
    none."""
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, Mapping) else loaded
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give a file that numpy wrote.") from error
    except Exception as error:  # numpy raises whatever the damage leads to
        raise InputError(
            f"{path} is no array that numpy reads ({str(error)[:200]}); write it with numpy.save, "
            "or numpy.savez for several."
        ) from error


def as_arrays(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs as an npz file holds them: pictures as uint8 without their opaque channel, and the
    probabilities NAME of a classifier as two arrays, NAME and NAME.labels."""
    arrays: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, dict):
            arrays[name] = np.array(list(value.values()))
            arrays[f"{name}.labels"] = np.array(list(value))
        elif isinstance(value, Image.Image):
            arrays[name] = np.asarray(value.convert("RGB") if value.mode == "RGBA" else value)
        else:
            arrays[name] = np.asarray(value)
    return arrays
