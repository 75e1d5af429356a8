"""A release of the model family: everything that differs between two releases.

A checkpoint that was made here states its name, licence and decoding defaults in release.json; the
published ones state them in no file that a program can read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.checkpoint.half_range import HalfRange
from export.checkpoint.rotation import ResidualStream
from export.graphs.bodies import Bodies
from export.host.chat_format import ChatRules
from export.models.config import ConfigRules, ModelConfig
from export.models.residual import half_range
from mobile_runtime.bundle import Generation, Preprocessing, SamplingDefaults
from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json

RELEASE_NAME = "release.json"


@dataclass(frozen=True)
class ReleaseFacts:
    """Name of a checkpoint, licence of its weights, and its decoding defaults.

    `name` becomes the first part of the name of a bundle's folder.
    """

    name: str
    license: str
    generation: Generation

    def as_json(self) -> dict[str, Any]:
        """The content of release.json."""
        return asdict(self)


@dataclass(frozen=True)
class Release:
    """One release of the family.

    `model_type` and `version` name it in config.json, `title` in errors, `hub_id` on the hub.
    `parts` maps each part of the model to the pattern of its weights' names; weights in `kept` stay
    floats whatever a recipe says, because the host computes with the same values. `calibrated` are
    the parts that a calibration finishes, the head only where it follows the checkpoint.
    `text_type` is the name of its language model in other programs.
    """

    model_type: str
    version: str
    title: str
    hub_id: str
    facts: ReleaseFacts
    config: ConfigRules
    tensor_shapes: Callable[[ModelConfig], Mapping[str, tuple[int, ...]]]
    bodies: Bodies
    residual_stream: Callable[[ModelConfig], ResidualStream]
    parts: Mapping[str, str]
    kept: tuple[str, ...]
    calibrated: tuple[str, ...]
    chat: ChatRules
    text_type: str
    half_range: Callable[[ModelConfig], HalfRange] = half_range

    @property
    def key(self) -> tuple[str, str]:
        """Its key in `RELEASES`."""
        return self.model_type, self.version


@dataclass(frozen=True)
class ModelDescription:
    """A checkpoint's model, as its files describe it."""

    release: Release
    config: ModelConfig
    preprocessing: Preprocessing


def load_facts(checkpoint: Path, release: Release) -> ReleaseFacts:
    """Read `checkpoint`/release.json; without it, return the published facts.

    Raises `InputError` if the file is not a release file.
    """
    path = checkpoint / RELEASE_NAME
    if not path.is_file():
        return release.facts
    values = read_json(path, "restore it, or remove it for the published facts")
    try:
        generation = values["generation"]
        return ReleaseFacts(
            name=_word(values["name"]),
            license=str(values["license"]),
            generation=Generation(
                answer=_sampling(generation["answer"]),
                thinking=_sampling(generation["thinking"]),
                max_new_tokens=int(generation["max_new_tokens"]),
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a release file ({error}); it has name, license and generation with "
            "answer, thinking and max_new_tokens. Restore it, or remove it for the published ones."
        ) from error


def _word(name: object) -> str:
    """Return `name`, or raise ValueError if it cannot be part of a path."""
    if not isinstance(name, str) or not name or set(name) & set('/\\:*?"<>|') or name[0] == ".":
        raise ValueError(f"the name {name!r} cannot be part of a folder's name")
    return name


def _sampling(values: Mapping[str, Any]) -> SamplingDefaults:
    return SamplingDefaults(
        temperature=float(values["temperature"]),
        top_k=int(values["top_k"]),
        top_p=float(values["top_p"]),
        repetition_penalty=float(values["repetition_penalty"]),
    )
