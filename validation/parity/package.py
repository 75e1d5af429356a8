"""A Core ML package of anyone's beside the PyTorch module that it was converted from.

Both get the same inputs. It knows no bundle and no checkpoint.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mobile_runtime.engines.memory import Limits
from mobile_runtime.engines.mil import Precision
from mobile_runtime.errors import InputError
from mobile_runtime.files import write_json
from mobile_runtime.mlprogram.description import Feature, Interface
from mobile_runtime.package.package import Package
from mobile_runtime.package.pictures import array_to_picture, picture_to_array
from validation.parity.metrics import cosine, psnr, snr

Array = np.ndarray


@dataclass(frozen=True)
class OutputResult:
    """One output beside PyTorch's, decibels of `metrics`; `least_db` is what it must reach."""

    output: str
    shape: tuple[int, ...]
    psnr_db: float
    snr_db: float
    cosine: float
    largest_error: float
    least_db: float

    @property
    def passed(self) -> bool:
        """Whether it reaches the floor; NaN reaches none."""
        return self.psnr_db >= self.least_db


@dataclass(frozen=True)
class PackageReport:
    """All outputs of one function."""

    package: str
    module: str
    engine: str
    precision: str
    outputs: tuple[OutputResult, ...]

    @property
    def failed(self) -> bool:
        """Whether any output is below its floor."""
        return not all(result.passed for result in self.outputs)

    def write(self, path: Path) -> None:
        """Write a JSON file in one step; infinite decibels become "inf"."""
        rows = [
            {key: _finite(value) for key, value in asdict(result).items()}
            | {"passed": result.passed}
            for result in self.outputs
        ]
        write_json(path, asdict(self) | {"outputs": rows})

    def print(self, console: Console) -> None:
        """Print the table."""
        table = Table("output", "shape", "status", "PSNR", "SNR", "cosine", "max error")
        for result in self.outputs:
            status = Text("passed", "green") if result.passed else Text("failed", "bold red")
            table.add_row(
                result.output,
                " × ".join(map(str, result.shape)),
                status,
                _decibels(result.psnr_db),
                _decibels(result.snr_db),
                f"{result.cosine:.6f}",
                f"{result.largest_error:.4g}",
            )
        console.print(table)
        floors = sorted({f"{result.least_db:g} dB" for result in self.outputs})
        console.print(f"an output passes with a PSNR of {', '.join(floors)} or more")


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _decibels(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.1f} dB"


def load_module(name: str) -> torch.nn.Module:
    """What `MODULE:FACTORY` gives when it is called without arguments, in evaluation mode; it may
    be the module itself. MODULE is looked for in the working folder first. Raises `InputError` if
    there is no such thing, or it fails."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise InputError(f"--torch got {name!r}; give MODULE:FACTORY, such as my_model:build.")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module), attribute)
        made = made if isinstance(made, torch.nn.Module) else made()
    except Exception as error:  # it is the user's code
        raise InputError(
            f"{name} gives no module ({type(error).__name__}: {str(error)[:200]}); give a function "
            "without arguments that returns a torch.nn.Module."
        ) from error
    finally:
        sys.path.remove(here)
    if not isinstance(made, torch.nn.Module):
        raise InputError(f"{name} gives a {type(made).__name__}; return a torch.nn.Module.")
    return made.eval()


@dataclass(frozen=True)
class ComparisonOptions:
    """How the package runs, what it may take, and what each output must reach: PSNR in dB."""

    precision: Precision = "fp32"
    function: str | None = None
    least: float = 60.0
    limits: Limits = Limits()
    engine: Literal["mil", "torch"] = "mil"
    device: str = "cpu"


def compare_package(
    path: Path, module_name: str, inputs: Mapping[str, Array], options: ComparisonOptions
) -> PackageReport:
    """Run the package at `path` and the PyTorch module on `inputs`, arrays by the names of the
    package's inputs.

    PyTorch gets them in the package's order: integers as they are, floats as float32, a picture
    (height, width, 3) as (1, 3, height, width) in 0…255. Its outputs are paired with the package's
    in order, or by name if it gives a dictionary. Raises `InputError` if they do not fit.
    """
    package = Package(
        path,
        precision=options.precision,
        engine=options.engine,
        device=options.device,
        limits=options.limits,
    )
    interface = package.describe().model.interface(options.function, path.name)
    candidate = package.predict(inputs, function=options.function)
    module = load_module(module_name)
    features = [f for f in interface.outputs if f.name != interface.label]
    expected = _expected(module_name, module, _tensors(interface, inputs, path.name), features)
    results = [
        _result(feature, candidate[feature.name], expected[feature.name], options.least)
        for feature in features
    ]
    ran = (options.engine, options.precision)
    return PackageReport(str(path), module_name, *ran, tuple(results))


def _tensors(interface: Interface, inputs: Mapping[str, Array], where: str) -> list[torch.Tensor]:
    """Inputs that the caller leaves out have their defaults in the module too."""
    given = [feature for feature in interface.inputs if feature.name in inputs]
    return [_tensor(feature, inputs[feature.name], where) for feature in given]


def _tensor(feature: Feature, value: Array, where: str) -> torch.Tensor:
    if feature.kind == "picture":
        value = picture_to_array(feature, value, where)
    return torch.from_numpy(value.astype(np.float32) if value.dtype.kind == "f" else value)


def _expected(
    name: str, module: torch.nn.Module, tensors: Sequence[torch.Tensor], features: list[Feature]
) -> dict[str, Array]:
    try:
        with torch.no_grad():
            made = module(*tensors)
    except Exception as error:  # it is the user's code
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise InputError(
            f"{name} fails on inputs of the shapes {shapes} ({type(error).__name__}: "
            f"{str(error)[:200]}); give the module that the package was converted from."
        ) from error
    if not isinstance(made, Mapping):
        listed = list(made) if isinstance(made, list | tuple) else [made]
        if len(listed) != len(features):
            raise InputError(
                f"{name} gives {len(listed)} outputs and the package {len(features)} "
                f"({', '.join(f.name for f in features)}); give as many."
            )
        made = dict(zip((f.name for f in features), listed, strict=True))
    if absent := [f.name for f in features if f.name not in made]:
        raise InputError(f"{name} gives no {absent[0]}; it gives {', '.join(map(str, made))}.")
    return {feature.name: made[feature.name].numpy() for feature in features}


def _result(feature: Feature, candidate: Any, expected: Array, least: float) -> OutputResult:
    if isinstance(candidate, Image.Image):  # PyTorch's levels are rounded and cut as well
        expected = _levels(array_to_picture(feature, expected, feature.name))
        candidate = _levels(candidate)
    elif isinstance(candidate, Mapping):  # of a classifier
        candidate, expected = np.array(list(candidate.values())), expected.reshape(-1)
    if candidate.shape != expected.shape and candidate.shape != (expected.reshape(-1)).shape:
        raise InputError(
            f"The output {feature.name} has the shape {candidate.shape}, and PyTorch's has "
            f"{expected.shape}; give the module that the package was converted from."
        )
    expected = expected.reshape(candidate.shape).astype(np.float64)
    return OutputResult(
        feature.name,
        candidate.shape,
        psnr(candidate, expected),
        snr(candidate, expected),
        cosine(candidate, expected),
        float(np.abs(candidate - expected).max(initial=0)),
        least,
    )


def _levels(picture: Image.Image) -> Array:
    """Without the channel that is opaque everywhere."""
    return np.asarray(picture.convert("RGB") if picture.mode == "RGBA" else picture)
