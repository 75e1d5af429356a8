"""preprocessor_config.json -> the constants that the runtime's image processor needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.models.config import ModelConfig
from mobile_runtime.bundle import Preprocessing
from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json

_FILE = "preprocessor_config.json"
# Class defaults of the published processor, for checkpoints that do not carry the file.
_DEFAULTS: Mapping[str, Any] = {
    "max_slice_nums": 9,
    "scale_resolution": 448,
    "slice_mode": True,
    "use_image_id": True,
    "norm_mean": [0.5, 0.5, 0.5],
    "norm_std": [0.5, 0.5, 0.5],
}
_MARKERS: Mapping[str, str] = {
    "im_start": "<image>",
    "im_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "im_id_start": "<image_id>",
    "im_id_end": "</image_id>",
    "unk": "<unk>",
}
MAX_ASPECT_RATIO = 20  # of a picture's longer side to the shorter
_ALIGNMENT = 32  # of the vision graphs' static length, in patches


def load_preprocessing(checkpoint: Path, config: ModelConfig) -> Preprocessing:
    """Read the file if the checkpoint has it, else take the published defaults.

    Raises `InputError` for unsupported values.
    """
    path = checkpoint / _FILE
    given = read_json(path, "download it again") if path.is_file() else {}
    values = {**_DEFAULTS, **given}
    _require(values.get("patch_size", config.vision.patch_size), config.vision.patch_size, "patch")
    _require(values.get("image_feature_size", config.num_queries), config.num_queries, "query")
    for key, marker in _MARKERS.items():
        if values.get(key, marker) != marker:
            raise InputError(f"{_FILE} has {key} = {values[key]!r}; only {marker!r} is supported.")
    if values["slice_mode"] is not True:
        raise InputError(f"{_FILE} has slice_mode {values['slice_mode']}; only true is supported.")
    scale = _positive(values, "scale_resolution")
    return Preprocessing(
        scale_resolution=scale,
        patch_size=config.vision.patch_size,
        max_slice_nums=_positive(values, "max_slice_nums"),
        slice_mode=True,
        use_image_id=bool(values["use_image_id"]),
        norm_mean=_triple(values, "norm_mean"),
        norm_std=_triple(values, "norm_std"),
        num_queries=config.num_queries,
        position_buckets=config.vision.position_buckets,
        max_patches=max_view_patches(scale, config.vision.patch_size),
    )


def _require(given: object, expected: int, what: str) -> None:
    if given != expected:
        raise InputError(
            f"{_FILE} and config.json disagree on the {what} size ({given} and {expected}); "
            "make them equal."
        )


def _positive(values: Mapping[str, Any], key: str) -> int:
    value = values[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{_FILE} has {key} = {value!r}; give a positive whole number.")
    return value


def _triple(values: Mapping[str, Any], key: str) -> tuple[float, ...]:
    value = values[key]
    numbers = value if isinstance(value, list) else []
    good = len(numbers) == 3 and all(type(number) in (int, float) for number in numbers)
    if not good or (key == "norm_std" and min(numbers) <= 0):
        raise InputError(
            f"{_FILE} has {key} = {value!r}; give three numbers, positive ones for norm_std."
        )
    return tuple(float(number) for number in numbers)


def max_view_patches(scale_resolution: int, patch_size: int) -> int:
    """Return the patches of the largest view of any picture between 1:20 and 20:1.

    The number is rounded up to a multiple of 32. With S = `scale_resolution`, a view of aspect
    ratio r = width/height has height int(S/√r) and width int(height·r), each rounded to whole
    patches. Of all views of one height, the widest is the largest.
    """
    largest = 0
    span = math.sqrt(MAX_ASPECT_RATIO)
    for height in range(int(scale_resolution / span), int(scale_resolution * span) + 1):
        ratio = min(float(MAX_ASPECT_RATIO), (scale_resolution / height) ** 2)
        rows = max(round(height / patch_size), 1)
        largest = max(largest, rows * max(round(int(height * ratio) / patch_size), 1))
    return -(-largest // _ALIGNMENT) * _ALIGNMENT
