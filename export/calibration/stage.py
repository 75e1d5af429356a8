"""Calibration as a stage of an export: a checkpoint and examples in, a folder of finished weights
out.

Blocks are done one after the other. The inputs of a block are those that the blocks before it give
with their quantized weights, so that its own rounding sees what it will see on the device. They are
kept on disk with each finished block: a stopped calibration goes on at the next block.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from export.build.code_digest import calibration_digest
from export.build.job import Job
from export.calibration.chat_format import open_chat_format
from export.calibration.examples import Examples, read_examples
from export.calibration.inputs import Embedder, embed_examples
from export.calibration.layers import LayerRunner, Moments, Pack, pack_texts
from export.calibration.torch_ops import Compute
from export.checkpoint.calibrated import RECORD, CalibratedSource, save_weights
from export.checkpoint.rotation import RotatedSource
from export.checkpoint.source import TensorSource, content_sha256
from export.config import ExportConfig
from export.quant.feedback import quantize_with_feedback
from export.quant.methods import FEEDBACK
from export.quant.recipe import QuantSpec
from export.quant.weights import Weight
from export.releases.release import ModelDescription
from mobile_runtime.errors import InputError
from mobile_runtime.files import write_json, written_whole

SEED = 0  # of the rotation
_WIDE = 1_000_000_000  # parameters from which matrices are multiplied in bfloat16
_COPIED = (".json", ".jinja", ".txt", ".model")
_INPUTS = "inputs.st"  # not *.safetensors: these are no weights
Report = Callable[[int, int, float], None]  # blocks done, of how many, seconds that are left


@dataclass(frozen=True)
class Calibrated:
    """A finished calibration: its folder, and what the manifest says of it."""

    folder: Path
    record: Mapping[str, Any]


def calibrate(job: Job, config: ExportConfig, root: Path, report: Report) -> Calibrated:
    """Rotate the model of `job`, and finish the matrices that its plan stores by error feedback;
    without examples only rotate.

    The result stands under `root`, and is taken from there if the same was done before.
    """
    _check_device(config.device)
    given = None if config.calibration is None else read_examples(config.calibration)
    wanted = {n: spec for n, spec in job.plan.specs.items() if spec.method == FEEDBACK}
    said = _describe(given, job.described)
    key = _key(job, wanted, said, config.device)
    target, partial = root / key, root / f"{key}.partial"
    if not (target / RECORD).is_file():
        partial.mkdir(parents=True, exist_ok=True)
        _copy_files(job.folder, partial)
        if given is not None:
            compute = _compute(job.described, config.device)
            _Work(job.folder, job.described, job.source, wanted, partial, compute).run(
                given, report
            )
        (partial / _INPUTS).unlink(missing_ok=True)
        write_json(partial / RECORD, {"origin": str(job.folder.resolve()), **said})
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    return Calibrated(target, {"key": key, "seed": said["seed"], "examples": said["examples"]})


def _describe(given: Examples | None, described: ModelDescription) -> dict[str, Any]:
    """What a record and the manifest say of a calibration."""
    stream = described.release.residual_stream(described.config)
    examples = given and {
        "name": given.name,
        "sha256": given.sha256,
        "chats": len(given.chats),
        "texts": len(given.texts),
    }
    return {"seed": SEED, "examples": examples, "stream": asdict(stream)}


def _key(job: Job, wanted: Mapping[str, QuantSpec], said: Mapping[str, Any], device: str) -> str:
    """Digest of all that a calibration's result depends on, and where its checkpoint is."""
    described = {
        "weights": content_sha256(job.source),
        "folder": str(job.folder.resolve()),
        "specs": {name: asdict(spec) for name, spec in sorted(wanted.items())},
        "said": dict(said),
        "tools": [torch.__version__, np.__version__, device],
        "code": calibration_digest(),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _copy_files(folder: Path, target: Path) -> None:
    """Copy what describes the model and its tokenizer."""
    for path in folder.iterdir():
        if path.suffix in _COPIED and not path.name.endswith(".index.json"):
            shutil.copyfile(path, target / path.name)


def _check_device(name: str) -> None:
    """Raises `InputError` unless torch can compute on the device."""
    try:
        torch.zeros(1, device=name).cpu()
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"torch cannot compute on --device {name} ({str(error).splitlines()[0]}); give cpu, or "
            "a device that torch finds here."
        ) from error


def _compute(described: ModelDescription, device: str) -> Compute:
    shapes = described.release.tensor_shapes(described.config).values()
    wide = sum(int(np.prod(shape)) for shape in shapes) >= _WIDE
    return Compute(device, torch.bfloat16 if wide else torch.float32)


@dataclass(frozen=True)
class _Work:
    """One calibration that runs: its checkpoint, and the folder that it fills."""

    folder: Path
    described: ModelDescription
    origin: TensorSource
    specs: Mapping[str, QuantSpec]
    target: Path
    compute: Compute

    def run(self, examples: Examples, report: Report) -> None:
        """Finish block after block, from the first that is not finished yet."""
        release, config = self.described.release, self.described.config
        stream = release.residual_stream(config)
        source = RotatedSource(self.origin, stream, SEED)
        runner = LayerRunner(self.described, self.compute)
        first, hidden = _load_inputs(self.target / _INPUTS)
        if first == 0:
            embedder = Embedder(source, self.described, self.compute)
            hidden = embed_examples(examples, open_chat_format(self.folder), embedder)
            del embedder
        packs = pack_texts([len(text) for text in hidden])
        started, count = time.monotonic(), config.decoder.num_layers
        for number in range(first, count):
            hidden = self._finish(number, source, runner, hidden, packs)
            _save_inputs(self.target / _INPUTS, number + 1, hidden)
            pace = (time.monotonic() - started) / (number + 1 - first)
            report(number + 1, count, pace * (count - number - 1))

    def _finish(
        self,
        number: int,
        source: RotatedSource,
        runner: LayerRunner,
        hidden: list[np.ndarray],
        packs: Sequence[Pack],
    ) -> list[np.ndarray]:
        """Store the matrices of a block; return the next block's inputs."""
        moments = Moments()
        runner.run(number, source, hidden, packs, moments)
        weights: dict[str, Weight] = {}
        shrinkages: dict[str, float] = {}
        for site, names in moments.sites().items():
            wanted = [name for name in names if name in self.specs]
            if not wanted:
                continue
            statistics = moments.take(site, source.diagonal_part_of(site))
            for name in wanted:
                spec = self.specs[name]
                weights[name], shrinkages[name] = quantize_with_feedback(
                    source.read(name), spec, statistics, name=name
                )
        path = self.target / f"block_{number:03d}.safetensors"
        save_weights(weights, {name: self.specs[name] for name in weights}, path)
        write_json(path.with_suffix(".json"), shrinkages)
        finished = CalibratedSource(source, [path])
        return runner.run(number, finished, hidden, packs)


def _save_inputs(path: Path, block: int, hidden: Sequence[np.ndarray]) -> None:
    arrays = {f"{n:05d}": text for n, text in enumerate(hidden)}
    with written_whole(path) as partial:
        save_file(arrays, str(partial), {"block": str(block)})


def _load_inputs(path: Path) -> tuple[int, list[np.ndarray]]:
    """The next block and its inputs; block 0 and none if nothing was saved."""
    try:
        with safe_open(path, framework="np") as file:
            return int(file.metadata()["block"]), [file.get_tensor(n) for n in sorted(file.keys())]
    except (OSError, SafetensorError):
        return 0, []
