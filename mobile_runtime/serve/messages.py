"""OpenAI's messages -> those of a session: pictures and videos become data URIs or paths.

A path counts only below the folder that the server was told to read, links followed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobile_runtime.errors import InputError
from mobile_runtime.files import path_inside
from mobile_runtime.pictures.sources import locate, shown
from mobile_runtime.serve.api_error import ApiError

MOST_MESSAGES, MOST_PARTS = 2000, 2000
_SHOWN_KINDS: Mapping[str, str] = {"image_url": "image", "video_url": "video"}
_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "image_url": ("background",),
    "video_url": ("background", "fps", "max_frames", "packing"),
}
# What clients send back with an answer that they were given, when there is nothing in it.
_EMPTY = ("refusal", "audio", "annotations", "tool_calls", "function_call", "tool_call_id")
_IGNORED = ("name",)  # the chat format has none
_IMAGE_DETAIL = ("auto", "low", "high", "original")  # a picture is cut by its size, whatever it is


def read_messages(given: Any, files: Path | None) -> Iterator[dict[str, Any]]:
    """The messages in the session's convention, which checks them further. Raises `ApiError`."""
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_MESSAGES:
        raise ApiError(
            400,
            f"messages must be a list of 1 to {MOST_MESSAGES:,} messages, such as "
            '[{"role": "user", "content": "Hi"}].',
            param="messages",
        )
    for n, message in enumerate(given):
        yield _read_message(message, f"messages[{n}]", files)


def _read_message(message: Any, where: str, files: Path | None) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ApiError(400, f"{where} must be an object with role and content.", param=where)
    kept = {key: value for key, value in message.items() if key not in _IGNORED}
    for name in _EMPTY:
        if kept.pop(name, None) not in (None, [], {}):
            raise ApiError(
                400, f"{where} has {name}, which is not supported here; leave it out.", param=where
            )
    if kept.get("role") == "developer":
        kept["role"] = "system"  # OpenAI's newer name of it
    if kept.get("reasoning_content", "") is None:
        del kept["reasoning_content"]
    if kept.get("role") == "assistant" and kept.get("content", "") is None:
        kept["content"] = ""
    content = kept.get("content")
    if isinstance(content, list):
        if len(content) > MOST_PARTS:
            raise ApiError(
                400, f"{where} has {len(content):,} parts; give {MOST_PARTS:,}.", param=where
            )
        parts = enumerate(content)
        kept["content"] = [_read_part(part, f"{where}.content[{n}]", files) for n, part in parts]
    return kept


def _read_part(part: Any, where: str, files: Path | None) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return part
    if not isinstance(kind, str) or kind not in _SHOWN_KINDS:
        raise ApiError(
            400,
            f"{where} must be of type text, image_url or video_url, not {str(kind)[:40]!r}.",
            param=where,
        )
    given = part.get(kind)
    if isinstance(given, str):
        given = {"url": given}
    settings = {key: part[key] for key in _SETTINGS[kind] if part.get(key) is not None}
    known = {"type", kind, *_SETTINGS[kind]}
    good = isinstance(given, dict) and isinstance(given.get("url"), str) and part.keys() <= known
    if not good or not given.keys() <= {"url", "detail"}:
        raise ApiError(
            400,
            f'{where} must be {{"type": "{kind}", "{kind}": {{"url": …}}}}, with '
            f"{' or '.join(_SETTINGS[kind])} beside it if wanted.",
            param=where,
        )
    if given.get("detail", "auto") not in _IMAGE_DETAIL:
        raise ApiError(
            400, f"{where} has a detail that is none of {', '.join(_IMAGE_DETAIL)}.", param=where
        )
    return {"type": _SHOWN_KINDS[kind], _SHOWN_KINDS[kind]: _source(given["url"], where, files)} | (
        settings
    )


def _source(url: str, where: str, files: Path | None) -> str:
    """A data URI as it is, or the path of a file that may be read."""
    if url[:5].lower() == "data:":
        return url
    if url[:5].lower() in ("http:", "https"):
        raise ApiError(
            400,
            f"{shown(url)} is not read, since nothing is fetched from other machines; send the "
            "content as a data: URL.",
            param=where,
        )
    if files is None:
        raise ApiError(
            400,
            f"{shown(url)} is not read, since this server reads no files (it has no --files); send "
            "the content as a data: URL.",
            param=where,
        )
    try:
        path = locate(url)
    except InputError as error:
        raise ApiError(400, str(error), param=where) from error
    assert isinstance(path, Path)
    inside = path_inside(files, _relative(path, files))
    if inside is None or not inside.is_file():
        raise ApiError(
            400,
            f"{shown(url)} is no file below the folder that this server reads; name one by its "
            "path within that folder.",
            param=where,
        )
    return str(inside)


def _relative(path: Path, files: Path) -> str:
    """The path within the folder; another absolute path, which is none within, as it is."""
    root = files.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


@contextmanager
def videos_as_files(messages: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """The messages with videos in data URIs written to files, which are removed at the end: only
    files are decoded. Raises `InputError` for a damaged data URI; one that names such a file calls
    it video-1."""
    with tempfile.TemporaryDirectory(prefix="minicpmv-serve-") as folder:
        try:
            yield [_with_files(message, Path(folder)) for message in messages]
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}/", "")) from error


def _with_files(message: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    if isinstance(content := message.get("content"), str | None):
        return message
    return {**message, "content": [_with_file(part, folder) for part in content]}


def _with_file(part: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    source = part.get("video")
    if not isinstance(source, str) or source[:5].lower() != "data:":
        return part
    data = locate(source)
    assert isinstance(data, bytes)
    path = folder / f"video-{len(list(folder.iterdir())) + 1}"
    path.write_bytes(data)
    return {**part, "video": str(path)}
