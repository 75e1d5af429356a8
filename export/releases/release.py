"""What a checkpoint is called, whose licence its weights bear, and how it decodes by default.

The published checkpoint says none of this in a file that a program can read; one that was made here
says it in release.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobile_runtime.bundle import Generation, SamplingDefaults
from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json

RELEASE_NAME = "release.json"


@dataclass(frozen=True)
class Release:
    """`name` becomes the first part of a bundle's folder."""

    name: str
    license: str
    generation: Generation

    def as_json(self) -> dict[str, Any]:
        """What release.json holds."""
        return asdict(self)


# generation_config.json is never used by the published chat(). With thinking, chat() sets the
# temperature alone and Hugging Face's own default top_k of 50 applies.
PUBLISHED = Release(
    name="minicpmv-4.5",
    license="MiniCPM Model License "
    "(https://github.com/OpenBMB/MiniCPM/blob/main/MiniCPM%20Model%20License.md)",
    generation=Generation(
        answer=SamplingDefaults(temperature=0.7, top_k=100, top_p=0.8, repetition_penalty=1.03),
        thinking=SamplingDefaults(temperature=0.7, top_k=50, top_p=1.0, repetition_penalty=1.0),
        max_new_tokens=2048,
    ),
)


def load_release(checkpoint: Path) -> Release:
    """`checkpoint`/release.json, or the published release where there is none."""
    path = checkpoint / RELEASE_NAME
    if not path.is_file():
        return PUBLISHED
    values = read_json(path)
    try:
        generation = values["generation"]
        return Release(
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
    """The name is part of a path."""
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
