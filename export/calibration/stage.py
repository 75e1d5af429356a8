"""Calibration as a stage of an export: a checkpoint and examples in, a folder of finished weights
out.

Matrices are done in the order in which they compute. The inputs of each are those that all before
it give with their quantized weights, so that its own rounding sees what it will see on the device.
Where there is time for it, the checkpoint runs beside them, and a matrix also makes up for what
they have lost (`export.calibration.drift`). The inputs of a block are kept on disk: a stopped
calibration goes on at the first block that is not finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.build.code_digest import calibration_digest
from export.build.job import Job
from export.calibration.chat_format import open_chat_format
from export.calibration.distillation import Distillation
from export.calibration.drift import Course
from export.calibration.examples import Examples
from export.calibration.gradients import Gradients
from export.calibration.head import Head, quantize_head
from export.calibration.inputs import Embedder, embed_examples
from export.calibration.layers import Inputs, LayerRunner, Pace, Report, measure
from export.calibration.sensitivity import Sensitivity
from export.calibration.torch_ops import Compute
from export.checkpoint.calibrated import RECORD, CalibratedSource, read_record, save_weights
from export.checkpoint.locate import small_files
from export.checkpoint.rotation import RotatedSource
from export.checkpoint.source import content_sha256
from export.config import ExportConfig
from export.graphs.graph import Parameter
from export.models.tensors import LM_HEAD
from export.plan import Calibration, is_wide
from export.quant.budget import choose
from export.quant.feedback import PLAIN, quantize_with_feedback
from export.quant.recipe import QuantRecipe, QuantSpec
from export.quant.weights import Weight
from export.releases.release import ModelDescription
from mobile_runtime.errors import InputError
from mobile_runtime.files import load_json, write_json

SEED = 0  # of the rotation
_SEARCHED = 4  # in one block of so many the best shrinkage is searched for: they hardly differ
_FINISHED, _PASSED = ".safetensors", ".st"  # weights, and what is needed only on the way
_INPUTS = "inputs.st"
_FIRST_INPUTS = "first_inputs.st"  # those of the first block, for a distillation
_TOLD = (
    "seed",
    "examples",
    "gradients",
    "drift_corrected",
    "distilled",
    "forecast",
    "gap",
)  # by the manifest


@dataclass(frozen=True)
class Calibrated:
    """A finished calibration: its folder, what the manifest says of it, and the recipe that it made
    if there was a budget."""

    folder: Path
    record: Mapping[str, Any]
    recipe: QuantRecipe | None


def calibrate(
    job: Job, config: ExportConfig, given: Examples | None, root: Path, report: Report
) -> Calibrated:
    """Rotate the model of `job`, and finish the matrices that its plan stores by error feedback, on
    the examples `given`; without these only rotate.

    The result stands under `root`, and is taken from there if the same was done before.
    """
    wanted = {parameter.name: job.plan.specs[parameter.name] for parameter in job.plan.calibrated}
    said = _describe(given, job)
    if job.plan.budget is not None:
        said["budget"] = config.quant
    key = _key(job, wanted, said, config.device)
    target, partial = root / key, root / f"{key}.partial"
    chosen: dict[str, Any] = {}
    if not (target / RECORD).is_file():
        partial.mkdir(parents=True, exist_ok=True)
        for path in small_files(job.folder):
            shutil.copyfile(path, partial / path.name)
        if given is not None:
            compute = _compute(job.described, config.device)
            assert job.plan.calibration is not None
            work = _Work(job, partial, compute, job.plan.calibration)
            chosen = work.run(given, wanted, report)
        for path in partial.glob(f"*{_PASSED}"):
            path.unlink()
        origin = {"origin": str(job.folder.resolve())}
        write_json(partial / RECORD, {**origin, **said, **chosen})
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    os.utime(target)  # the least recently used are removed first
    record = read_record(target)
    told = {name: record[name] for name in _TOLD if name in record}
    recipe = QuantRecipe.from_json(record["recipe"]) if "recipe" in record else None
    return Calibrated(target, {"key": key, **told}, recipe)


def _describe(given: Examples | None, job: Job) -> dict[str, Any]:
    """What a record and the manifest say of a calibration."""
    stream = job.release.residual_stream(job.model)
    said: dict[str, Any] = {"seed": SEED, "examples": None, "stream": asdict(stream)}
    asked = job.plan.calibration
    if given is not None and asked is not None:
        said["examples"] = {
            "name": given.name,
            "sha256": given.sha256,
            "chats": len(given.chats),
            "texts": len(given.texts),
            "text_tokens": asked.text_tokens,
        }
    said["gradients"] = asked is not None and asked.gradients
    said["drift_corrected"] = asked is not None and asked.corrects_drift
    said["distilled"] = 0 if asked is None else asked.distill
    return said


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


def check_device(name: str) -> None:
    """Raises `InputError` unless torch can compute on the device."""
    try:
        torch.zeros(1, device=name).cpu()
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"torch cannot compute on --device {name} ({str(error).splitlines()[0]}); give cpu, or "
            "a device that torch finds here."
        ) from error


def _compute(described: ModelDescription, device: str) -> Compute:
    return Compute(device, torch.bfloat16 if is_wide(described) else torch.float32)


@dataclass(frozen=True)
class _Work:
    """One calibration that runs: its checkpoint, and the folder that it fills."""

    job: Job
    target: Path
    compute: Compute
    asked: Calibration

    def run(
        self, examples: Examples, specs: Mapping[str, QuantSpec], report: Report
    ) -> dict[str, Any]:
        """Finish block after block, from the first that is not finished yet: the matrices of
        `specs`, as these say or, with a budget, as it is spent best. Returns what a record says of
        that."""
        described, plan = self.job.described, self.job.plan
        source = RotatedSource(
            self.job.source, described.release.residual_stream(described.config), SEED
        )
        inputs = Inputs.load(self.target / _INPUTS) or self._start(examples, source)
        runner = LayerRunner(described, self.compute)
        gradients, said = None, {}
        if self.asked.gradients:
            gradients = Gradients(runner, source, self.target)
            gradients.complete(inputs, report)
        if plan.budget is not None:
            assert gradients is not None, "a budget is spent by gradients"
            forecasts = Sensitivity(runner, source, gradients, plan.options, self.target)
            options = forecasts.complete(inputs, report, self.job.backend.fuses_inputs)
            choice = choose(options, plan.budget)
            chosen = {
                name: plan.options[name][option.number]
                for names, option in choice.chosen.items()
                for name in names
            }
            recipe, specs = plan.recipe.with_matrices(chosen), {**specs, **chosen}
            said = {"recipe": recipe.as_json(), "forecast": choice.loss, "gap": choice.gap}
        count = described.config.decoder.num_layers
        pace = Pace(report, "calibrated block", count, inputs.block)
        while inputs.block < count:
            inputs = self._finish(source, runner, inputs, specs, gradients)
            inputs.save(self.target / _INPUTS)
            pace.tell(inputs.block)
        if self.asked.distill:
            first = Inputs.load(self.target / _FIRST_INPUTS)
            assert first is not None, "they were kept"
            files = [self._path(block) for block in range(count)]
            steps = self.asked.distill
            Distillation(runner, source, files, first, steps, self.target).complete(report)
            if plan.calibrated_head:
                tuned = CalibratedSource(source, [path.with_suffix(_FINISHED) for path in files])
                inputs = replace(runner.run_all(first, tuned), exact=inputs.exact)
        if plan.calibrated_head:
            self._finish_head(Head(source, self.compute, described.config.decoder), inputs, specs)
        return said

    def _finish_head(self, head: Head, ended: Inputs, specs: Mapping[str, QuantSpec]) -> None:
        parameters = self.job.plan.calibrated_head
        weights = quantize_head(head, ended, parameters, specs)
        begins = {p.name: (LM_HEAD, p.inverse.begin) for p in parameters if p.inverse}
        save_weights(weights, specs, (self.target / "head").with_suffix(_FINISHED), begins)

    def _start(self, examples: Examples, source: RotatedSource) -> Inputs:
        """The inputs of the first block."""
        embedder = Embedder(source, self.job.described, self.compute)
        chat_format = open_chat_format(self.job.folder)
        texts = embed_examples(examples, chat_format, embedder, self.asked.text_tokens)
        inputs = Inputs.of_texts(texts)
        if self.asked.corrects_drift:
            inputs = replace(inputs, exact=inputs.hidden)
        if self.asked.distill:
            inputs.save(self.target / _FIRST_INPUTS)
        inputs.save(self.target / _INPUTS)
        return inputs

    def _finish(
        self,
        source: RotatedSource,
        runner: LayerRunner,
        inputs: Inputs,
        specs: Mapping[str, QuantSpec],
        gradients: Gradients | None,
    ) -> Inputs:
        """Store the matrices of a block; return the next block's inputs."""
        course = None if inputs.exact is None else Course.of_block(runner, inputs, source)
        finished = CalibratedSource(source)
        weights: dict[str, Weight] = {}
        shrinkages: dict[str, float] = {}
        before = self._shrinkages_before(inputs.block)

        def quantize(parameters: Sequence[Parameter], x: Tensor, stream: Tensor) -> None:
            names = [parameter.name for parameter in parameters if parameter.name in specs]
            if not names:
                return
            counts = None if gradients is None else gradients.counts(inputs.block, names, x)
            statistics = measure(x, inputs.split, source.diagonal_part_of(names[0]), counts)
            drift = None
            if course is not None:
                drift = course.drift(names[0], statistics, x, stream, counts)
            for name in names:
                values = source.read(name)
                values = values if drift is None else drift.corrected(values)
                spec, expected = specs[name], before.get(_below(name, inputs.block))
                if gradients is not None:
                    between = gradients.between(inputs.block, name)
                    statistics = replace(statistics, outputs=between)
                weights[name], shrinkages[name] = quantize_with_feedback(
                    values, spec, statistics, name=name, expected=expected
                )
                count, _ = weights[name].shape
                finished.put(name, spec, count, partial(weights.__getitem__, name))

        after = runner.run(inputs, finished, quantize)
        path = self._path(inputs.block)
        save_weights(weights, finished.weights, path)
        write_json(path.with_suffix(".json"), shrinkages)
        return after if course is None else replace(after, exact=course.after)

    def _shrinkages_before(self, block: int) -> Mapping[str, float]:
        """Those of the block before, by matrix, unless this block is to search for its own."""
        if block % _SEARCHED == 0:
            return {}
        found = load_json(self._path(block - 1).with_suffix(".json"), "calibrate again")
        return {name: shrinkage for name, shrinkage in found.items() if shrinkage != PLAIN}

    def _path(self, block: int) -> Path:
        """Of a block's matrices, which a distillation has yet to tune."""
        suffix = _PASSED if self.asked.distill else _FINISHED
        return self.target / f"block_{block:03d}{suffix}"


def _below(name: str, block: int) -> str:
    """The matrix of the block before that does the same."""
    return name.replace(f".{block}.", f".{block - 1}.")
