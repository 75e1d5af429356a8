"""The releases of the model family, by model_type and version of their config.json.

Another release is one module that composes a `Release`, and one line in `RELEASES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.checkpoint import kind_of
from export.models.config import ModelConfig
from export.models.config import parse_config as parse_with_rules
from export.models.preprocessor import load_preprocessing
from export.releases.minicpmv_4_5 import MINICPMV_4_5
from export.releases.release import ModelDescription, Release
from mobile_runtime.errors import InputError

__all__ = [
    "DEFAULT_RELEASE",
    "RELEASES",
    "ModelDescription",
    "Release",
    "describe_model",
    "find_release",
    "load_config",
    "parse_config",
    "published_release",
    "read_config",
]

RELEASES: dict[tuple[str, str], Release] = {release.key: release for release in (MINICPMV_4_5,)}
DEFAULT_RELEASE = MINICPMV_4_5  # of checkpoints that name none


def find_release(values: Mapping[str, Any]) -> Release:
    """Return the release that a config.json names. Raises `InputError` if it is not supported."""
    default = DEFAULT_RELEASE
    kind = values.get("model_type", default.model_type), values.get("version", default.version)
    key = tuple(map(str, kind))
    if key not in RELEASES:
        known = ", ".join(f"{r.title} ({' '.join(k)})" for k, r in RELEASES.items())
        raise InputError(
            f"config.json has model_type {kind[0]!r} and version {kind[1]!r}, which is not "
            f"supported; supported: {known}."
        )
    return RELEASES[key[0], key[1]]


def published_release(hub_id: str) -> Release:
    """The release that is published under `hub_id`; the default one for any other name."""
    return next((r for r in RELEASES.values() if r.hub_id == hub_id), DEFAULT_RELEASE)


def parse_config(values: Mapping[str, Any]) -> ModelConfig:
    """The model that the values of a config.json describe."""
    return parse_with_rules(values, find_release(values).config)


def read_config(checkpoint: Path) -> dict[str, Any]:
    """The values of a checkpoint's config.json."""
    return kind_of(checkpoint).read_config(checkpoint)


def load_config(checkpoint: Path) -> ModelConfig:
    """The model of a checkpoint folder."""
    return parse_config(read_config(checkpoint))


def describe_model(checkpoint: Path) -> ModelDescription:
    """Describe the model of a checkpoint folder from its files; needs no weights."""
    values = read_config(checkpoint)
    release = find_release(values)
    config = parse_with_rules(values, release.config)
    return ModelDescription(release, config, load_preprocessing(checkpoint, config))
