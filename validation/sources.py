"""Checkpoints that bundles are compared with, opened together with their chat format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from export.backends import BACKENDS
from export.calibration.chat_format import open_chat_format
from export.checkpoint import open_source
from export.checkpoint.calibrated import CalibratedSource
from export.checkpoint.locate import DEFAULT_CHECKPOINT, locate_checkpoint
from export.checkpoint.rotation import RotatedSource
from export.checkpoint.source import (
    TensorSource,
    check_tensors,
    content_sha256,
    stored_weights,
)
from export.config import ExportConfig
from export.models.config import ModelConfig
from export.models.tensors import TIED
from export.plan import Plan, build_plan
from export.quant.recipe import QuantRecipe
from export.releases import ModelDescription, describe_model
from export.releases.half_range import RECORDED, fit_description, fit_source
from mobile_runtime.bundle import Manifest, read_manifest
from mobile_runtime.chat.conversation import ChatFormat
from mobile_runtime.errors import InputError
from validation.stored import read_stored


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checked checkpoint, what its files say of the model, and its chat format.

    `checkpoint` holds the tensors, rotated and divided if the bundle's are; `published` those of
    the files. `finished` holds the matrices that a calibration finished as well.
    """

    folder: Path
    checkpoint: TensorSource
    described: ModelDescription
    chat_format: ChatFormat
    published: TensorSource
    finished: TensorSource | None = None

    @property
    def config(self) -> ModelConfig:
        """The model's sizes."""
        return self.described.config

    @property
    def stored(self) -> TensorSource:
        """What the bundle's packages were made from."""
        return self.checkpoint if self.finished is None else self.finished


def published_source(bundle: Path, given: str | None) -> OpenCheckpoint:
    """Open the checkpoint that `bundle` was made from: `given`, or the pocket model. Raises
    `InputError` if it is another one."""
    source = read_manifest(bundle).source
    if given is None and source.name != DEFAULT_CHECKPOINT.name:
        raise InputError(f"{bundle} was exported from {source.name}; give it with --checkpoint.")
    return open_checkpoint(given)


def prepared_like(bundle: Path, source: OpenCheckpoint) -> OpenCheckpoint:
    """The checkpoint as the export of `bundle` prepared it: rotated, with what a calibration
    finished."""
    manifest = read_manifest(bundle)
    prepared, divisor = manifest.recipe.get("prepared"), manifest.recipe.get(RECORDED)
    if prepared is not None:
        source = rotated(source, prepared["seed"])
    if divisor is not None:
        source = fitted(source, divisor)
    if prepared is None or prepared["examples"] is None:
        return source
    plan = bundle_plan(manifest, source)
    parameters = {parameter.name: parameter for parameter in plan.calibrated}
    shapes = {name: (p.shape[0], p.shape[1]) for name, p in parameters.items()}
    finished = CalibratedSource(source.checkpoint)
    specs = {name: plan.specs[name] for name in parameters}
    for name, load in read_stored(bundle, manifest, specs, shapes).items():
        back = parameters[name].inverse
        assert back is not None, f"{name} was finished as a tensor, or as rows of one"
        finished.put(back.tensor, specs[name], shapes[name][0], load, back.begin)
    return replace(source, finished=finished)


def bundle_plan(manifest: Manifest, source: OpenCheckpoint) -> Plan:
    """The plan by which the bundle was made, rebuilt from its manifest and the checkpoint."""
    check_source(manifest, source)
    decoding = manifest.decoding
    config = ExportConfig(
        context_length=decoding.context_length,
        prefill_length=decoding.prefill_length,
        kv_cache=decoding.kv_cache,
    )
    return build_plan(
        config,
        replace(source.described, preprocessing=manifest.preprocessing),
        BACKENDS[manifest.format],
        recipe=QuantRecipe.from_json(manifest.recipe),
        finished=stored_weights(source.stored),
    )


def rotated(source: OpenCheckpoint, seed: int) -> OpenCheckpoint:
    """The same model with its residual stream rotated."""
    stream = source.described.release.residual_stream(source.config)
    checkpoint = RotatedSource(source.published, stream, seed)
    decoder = replace(source.config.decoder, tie_word_embeddings=False)
    described = replace(source.described, config=replace(source.config, decoder=decoder))
    return replace(source, checkpoint=checkpoint, described=described)


def fitted(source: OpenCheckpoint, divisor: int) -> OpenCheckpoint:
    """The same model with activations that half precision holds."""
    described = fit_description(source.described, divisor)
    checkpoint = fit_source(source.checkpoint, described, divisor)
    return replace(source, checkpoint=checkpoint, described=described)


def check_source(manifest: Manifest, source: OpenCheckpoint) -> None:
    """Raises `InputError` if the bundle was made from other weights."""
    if manifest.source.sha256 != content_sha256(source.published):
        raise InputError(
            f"the bundle was not made from {source.folder} (its weights have another "
            "checksum); give the checkpoint that it was exported from."
        )


def open_checkpoint(given: str | None) -> OpenCheckpoint:
    """Open a checkpoint folder or hub id, or the pocket model for None."""
    folder = locate_checkpoint(given, cache=ExportConfig().cache)
    described, checkpoint = describe_model(folder), open_source(folder)
    shapes = described.release.tensor_shapes(described.config)
    check_tensors(checkpoint, shapes, str(folder), described.release.title, TIED)
    chat_format = open_chat_format(folder)
    return OpenCheckpoint(folder, checkpoint, described, chat_format, checkpoint)
