"""Pictures and videos of a conversation -> views, with the layout that the prompt needs.

Knows files and the image processor; knows neither tokens nor graphs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mobile_runtime.bundle import Preprocessing
from mobile_runtime.chat.messages import Media, Turn, collect_media
from mobile_runtime.chat.prompt import MediaLayout
from mobile_runtime.errors import InputError
from mobile_runtime.pictures.images import load_image, to_rgb
from mobile_runtime.pictures.preprocess import View, check_plan, cut_image, plan_slices
from mobile_runtime.pictures.sources import locate
from mobile_runtime.pictures.video import (
    MAX_FRAMES_PER_GROUP,
    VideoOptions,
    fit_frames,
    group_frames,
    plan_frames,
    probe_video,
    read_frames,
)

_VIDEO_SLICES = 1  # the published setting: a frame is one view
_RESERVED = 512  # tokens for what is said after a film, or a quarter of what there is
_AROUND = 3  # tokens around those of a view


@dataclass(frozen=True)
class Frames:
    """One picture, or the frames of one video, and how they were cut."""

    views: tuple[tuple[View, ...], ...]  # of each frame
    layout: MediaLayout


def load_frames(
    turns: Sequence[Turn],
    config: Preprocessing,
    max_slice_nums: int | None = None,
    folder: Path | None = None,
    room: int | None = None,
) -> list[Frames]:
    """Read and cut everything that the turns show; relative paths start at `folder`.

    `room` is the number of tokens that pictures, films and what is said later may take. Films share
    what pictures leave of it, but for a reserve: those that would take more give more frames to a
    group, and then fewer frames. Raises `InputError` for a film whose part says which frames are
    read if these do not fit, reserve included: before they are decoded.
    """
    video_slices = _VIDEO_SLICES if max_slice_nums is None else max_slice_nums
    media = collect_media(turns)
    loaded = [
        None
        if _is_film(one)
        else _load_listed(one, config, video_slices, folder)
        if one.kind == "video"
        else _cut([_open_image(one.source, one, folder)], config, max_slice_nums, None)
        for one in media
    ]
    share = None
    if room is not None and None in loaded:
        taken = sum(_tokens(frames, config) for frames in loaded if frames is not None)
        share = (room - taken) // loaded.count(None)
    return [
        _load_film(one, config, video_slices, folder, share) if frames is None else frames
        for one, frames in zip(media, loaded, strict=True)
    ]


def _is_film(media: Media) -> bool:
    return media.kind == "video" and not isinstance(media.source, list | tuple)


def _tokens(frames: Frames, config: Preprocessing) -> int:
    """Of one picture, or of a list of frames, about."""
    groups = frames.layout.temporal_ids
    views = sum(map(len, frames.views)) if groups is None else len(groups) * len(frames.views[0])
    return views * (config.num_queries + _AROUND)


def _open_image(source: Any, media: Media, folder: Path | None) -> Image.Image:
    """A picture of `media`, or one of its frames."""
    if isinstance(source, Image.Image):
        return to_rgb(source, background=media.background)
    return load_image(_find(source, folder), media.background)


def _find(source: Any, folder: Path | None) -> Path | bytes:
    if not isinstance(source, str | Path):
        raise InputError(f"A picture or video is a path, not {str(source)[:80]!r}.")
    return locate(source, folder)


def _load_listed(media: Media, config: Preprocessing, slices: int, folder: Path | None) -> Frames:
    """A video that is given as a list of pictures."""
    if media.sampling:
        raise InputError(
            f"A video given as a list of frames has {', '.join(media.sampling)}; leave it out, and "
            "list the frames that are to be read."
        )
    images = [_open_image(frame, media, folder) for frame in media.source]
    if not images:
        raise InputError("A video given as a list of frames needs at least one frame.")
    return _cut(images, config, slices, _groups_of_frames(len(images)))


def _load_film(
    media: Media, config: Preprocessing, slices: int, folder: Path | None, share: int | None
) -> Frames:
    path = _find(media.source, folder)
    if isinstance(path, bytes):
        raise InputError("a video in a data URI is not read; save it and give the file.")
    info, options = probe_video(path), VideoOptions.of_part(media.sampling)
    plan = plan_frames(info, options)
    if share is not None:
        views = 1 if slices <= 1 else slices + 1  # of a frame, at most
        tokens = views * (config.num_queries + _AROUND)
        reserve = 0 if media.sampling else min(_RESERVED, share // 4)
        groups = max(1, (share - reserve) // tokens)
        if media.sampling and len(plan.temporal_ids) > groups:
            raise InputError(
                f"{path} would be read as {len(plan.indices)} frames in {len(plan.temporal_ids)} "
                f"groups, and the context has room for {groups}; lower fps or max_frames, or give "
                f"a packing of up to {MAX_FRAMES_PER_GROUP}."
            )
        plan = fit_frames(info, options, groups)
    frames = read_frames(path, plan.indices, media.background)
    return _cut(frames, config, slices, plan.temporal_ids)


def _groups_of_frames(count: int) -> tuple[tuple[int, ...], ...]:
    """Group frames without times: one per group if the sampler has enough groups for that."""
    groups = VideoOptions().max_num_frames
    packing = -(-count // groups)
    if packing > MAX_FRAMES_PER_GROUP:
        raise InputError(
            f"A video of {count} frames is too long; give at most "
            f"{groups * MAX_FRAMES_PER_GROUP} of them."
        )
    return group_frames(range(count), packing)


def _cut(
    images: Iterable[Image.Image],
    config: Preprocessing,
    max_slice_nums: int | None,
    temporal_ids: Sequence[Sequence[int]] | None,
) -> Frames:
    """Cut pictures or frames one by one: those of a long video would not fit in memory."""
    views, grids = [], []
    for image in images:
        plan = plan_slices(*image.size, config, max_slice_nums)
        check_plan(plan, config)
        views.append(tuple(cut_image(image, plan, config)))
        grids.append(plan.grid)
        del image  # before the next is read
    return Frames(tuple(views), MediaLayout(tuple(grids), temporal_ids))


def view_digest(view: View) -> bytes:
    """SHA-256 that identifies a view by its pixels and shape."""
    digest = hashlib.sha256(repr(view.tgt_size).encode())
    digest.update(view.pixels.tobytes())
    return digest.digest()
