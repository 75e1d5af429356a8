"""Finds and reads the model of a package folder; what is none is refused by its right name.

In: the path of a `.mlpackage`. Out: the root message, and the folder that its weight files are
named from. It knows which kinds of models there are, not what is in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from mobile_runtime.errors import InputError
from mobile_runtime.files import path_inside
from mobile_runtime.mlprogram.schema import Model

PROGRAM, SUPPRESSION = "mlProgram", "nonMaximumSuppression"
PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")
# Field of Model -> its name in a sentence, with an article.
_WORDS = {
    PROGRAM: "an ML Program",
    SUPPRESSION: "a non-maximum suppression",
    "pipeline": "a pipeline",
    "pipelineClassifier": "a pipeline that classifies",
    "pipelineRegressor": "a pipeline that regresses",
    "neuralNetwork": "a neural network",
    "neuralNetworkClassifier": "a neural network that classifies",
    "neuralNetworkRegressor": "a neural network that regresses",
    "treeEnsembleClassifier": "a tree ensemble that classifies",
    "treeEnsembleRegressor": "a tree ensemble that regresses",
    "supportVectorClassifier": "a support vector machine that classifies",
    "supportVectorRegressor": "a support vector machine that regresses",
    "glmClassifier": "a generalized linear model that classifies",
    "glmRegressor": "a generalized linear model that regresses",
}
_NEW_CONVERSION = (
    'convert the original model with convert_to="mlprogram" and a minimum_deployment_target of '
    "iOS 15 or later"
)


@dataclass(frozen=True)
class ModelFile:
    """The model of a package: its root message, and the folder that holds the file."""

    package: Path
    message: Any
    folder: Path


def kind_of(message: Any) -> str:
    """The field of Model that says what a model is, empty if none does."""
    return str(message.WhichOneof("Type") or "")


def kind_in_words(kind: str) -> str:
    """The kind of a model in a sentence, with an article."""
    spaced = "".join(f" {c.lower()}" if c.isupper() else c for c in kind)
    return _WORDS.get(kind) or (
        f"a model of kind {spaced!r}" if kind else "a model of no known kind"
    )


def not_a_program(source: str | Path, kind: str) -> InputError:
    """The error for a model of another kind than ML Programs, with what to do."""
    if kind in PIPELINES:
        remedy = "open it with mobile_runtime.Package, which runs the models of pipelines"
    elif kind == "" or kind.startswith("neuralNetwork"):
        remedy = _NEW_CONVERSION
    else:
        remedy = "only ML Programs, and pipelines of them with a suppression, run without Core ML"
    return InputError(f"{source} is {kind_in_words(kind)}, not an ML Program; {remedy}.")


@contextmanager
def reading(package: Path) -> Iterator[None]:
    """What fails within, on a program whose parts contradict each other, is an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a program is data: it may break any rule
        raise InputError(
            f"{package} breaks the rules of ML Programs ({type(error).__name__}: "
            f"{str(error)[:200]}): it is damaged; copy or export the package again."
        ) from error


def read_model(package: Path) -> ModelFile:
    """Read the model of the package folder `package`, of whatever kind. Raises `InputError` for
    anything else, which it names, and for a damaged package."""
    _check_folder(package)
    path = _model_path(package)
    return ModelFile(package, _parse(path), path.parent)


def _parse(path: Path) -> Any:
    message = Model()
    try:
        message.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(
            f"{path} is not a Core ML model: it is damaged; copy or export the package again."
        ) from error
    return message


def _check_folder(package: Path) -> None:
    give = "give the folder whose name ends in .mlpackage"
    if package.is_file():
        if package.suffix == ".mlmodel":
            raise not_a_program(f"The file {package}", kind_of(_parse(package)))
        unpack = "unpack it and " if package.suffix == ".zip" else ""
        raise InputError(f"{package} is a file, and Core ML packages are folders; {unpack}{give}.")
    if not package.exists():
        raise InputError(f"{package} does not exist; {give}.")
    if package.suffix == ".mlmodelc" or (package / "coremldata.bin").is_file():
        raise InputError(
            f"{package} is a compiled model, which only Core ML reads; give the .mlpackage that it "
            "was compiled from."
        )
    if (package / "Manifest.json").is_file():
        return
    inside = sorted(package.glob("*.mlpackage"))
    if inside:
        give = f"give one of the packages in it, such as {inside[0]}"
    raise InputError(f"{package} is not a Core ML package: it has no Manifest.json; {give}.")


def _model_path(package: Path) -> Path:
    manifest = package / "Manifest.json"
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        entry = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{manifest} does not name a model: it is damaged; copy or export the package again."
        ) from error
    path = inside_package(package / "Data", str(entry))
    if not path.is_file():
        raise InputError(f"{package} lacks its model {entry}; copy or export the package again.")
    return path


def inside_package(root: Path, name: str) -> Path:
    """The path of `name` where the package has it: beside a link lie the links to its other files.
    Raises `InputError` for a name that leads out."""
    if path_inside(root, name) is None:
        raise InputError(f"The package names {name!r}, which leads out of it; do not use it.")
    return root / name
