"""Videos to frames and temporal ids: which frames to take, how to pack them, and their decoding.

A video file goes in; upright RGB frames and groups of ids in units of 0.1 s come out. Planning (the
published sampler's arithmetic) is separate from decoding and needs no video.
"""

from __future__ import annotations

import math
import os
import struct
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobile_runtime.errors import InputError
from mobile_runtime.pictures.rgb import WHITE, Colour, convert
from mobile_runtime.pictures.sources import check_file

TIME_SCALE = 0.1  # seconds per temporal id
MAX_FRAMES_PER_GROUP = 6  # what the 3D resampler was trained on
_LONGEST = 1_000_000  # seconds: longer ones are damaged
_SAME_RATE = 0.01  # of a rate, by which a measured one may differ from it
_CONTAINERS = (
    *(
        "mov",
        "matroska",
        "webm",
        "avi",
        "mpeg",
        "mpegts",
        "mpegvideo",
        "h264",
        "hevc",
        "flv",
        "asf",
    ),
    *("gif", "apng", "ogg", "nut", "mxf", "dv", "ivf", "obu", "m4v", "yuv4mpegpipe", "wtv", "rm"),
    *("webp_pipe", "png_pipe", "jpeg_pipe", "image2", "bmp_pipe", "tiff_pipe"),
    *("mp3", "wav", "flac", "aac", "srt", "tty"),  # to be told apart from what is no media file
)
_MOST_FAILURES = 100  # to read a packet, in a row
_THREADS_BYTES = 64_000_000  # of frames that the decoder's threads hold, about
_PALETTES = ("pal8",)  # whose colours may be transparent
# By a display matrix: whether it swaps width and height, and then mirrors across and down.
_TURNS = {
    (False, True, False): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, False, True): Image.Transpose.FLIP_TOP_BOTTOM,
    (False, True, True): Image.Transpose.ROTATE_180,
    (True, False, False): Image.Transpose.TRANSPOSE,
    (True, True, False): Image.Transpose.ROTATE_270,
    (True, False, True): Image.Transpose.ROTATE_90,
    (True, True, True): Image.Transpose.TRANSVERSE,
}
_ROTATIONS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    -180: Image.Transpose.ROTATE_180,
    -90: Image.Transpose.ROTATE_270,
}
_LOCAL = {"protocol_whitelist": "file", "format_whitelist": ",".join(_CONTAINERS)}


@dataclass(frozen=True)
class VideoOptions:
    """The published sampler's settings: frames per second, most groups, most frames per group (1 to
    6), and a fixed number of frames per group (capped by that maximum; None: automatic). `most` is
    the number of frames at most, which the published one has not."""

    choose_fps: int = 5
    max_num_frames: int = 180
    max_num_packing: int = 3
    force_packing: int | None = None
    most: int | None = None

    @classmethod
    def of_part(cls, given: Mapping[str, int]) -> VideoOptions:
        """The settings that a message's part gives: `fps`, `max_frames`, `packing`."""
        published = cls()
        packing = given.get("packing")
        return cls(
            choose_fps=given.get("fps", published.choose_fps),
            max_num_packing=max(published.max_num_packing, packing or 1),
            force_packing=packing,
            most=given.get("max_frames"),
        )


@dataclass(frozen=True)
class VideoInfo:
    """Number of frames and their average rate in 1/s."""

    frame_count: int
    fps: float


@dataclass(frozen=True)
class FramePlan:
    """Ascending frame numbers (a slow video may repeat some) and the groups of their ids."""

    indices: tuple[int, ...]
    temporal_ids: tuple[tuple[int, ...], ...]


def plan_frames(info: VideoInfo, options: VideoOptions = VideoOptions()) -> FramePlan:
    """Choose frames from the centres of equal segments and group their times.

    The published sampler fails on clips too short for one frame; here they give one. Raises
    `InputError` for a video without frames, or options out of their range.
    """
    _check_options(options)
    if info.frame_count < 1 or not 0 < info.fps < math.inf:
        raise InputError(
            f"The video has {info.frame_count} frames at {info.fps} a second; give one with frames."
        )
    duration = info.frame_count / info.fps
    if duration > _LONGEST:
        raise InputError(
            f"The video says that it lasts {duration:.0f} s; give one of at most {_LONGEST:,} s."
        )
    count, packing = _count_and_packing(duration, info.fps, options)
    count = count if options.most is None else min(count, options.most)
    if options.force_packing is not None:
        packing = min(options.force_packing, options.max_num_packing)
    gap = info.frame_count / count
    indices = tuple(int(i * gap + gap / 2) for i in range(count))
    return FramePlan(indices, group_frames(_snap(indices, info.fps, duration), packing))


def fit_frames(info: VideoInfo, options: VideoOptions, groups: int) -> FramePlan:
    """The plan of `plan_frames` if it has at most `groups` groups. Else there are more frames in a
    group, as many as the resampler knows, and if that is not enough, fewer frames."""
    plan = plan_frames(info, options)
    packing, most = len(plan.temporal_ids[0]), len(plan.indices)
    while len(plan.temporal_ids) > groups and packing < MAX_FRAMES_PER_GROUP:
        packing += 1
        options = replace(
            options, force_packing=packing, max_num_packing=MAX_FRAMES_PER_GROUP, most=most
        )
        plan = plan_frames(info, options)
    if len(plan.temporal_ids) > groups:
        plan = plan_frames(info, replace(options, most=groups * packing))
    return plan


def _check_options(options: VideoOptions) -> None:
    packings = {"max_num_packing": options.max_num_packing, "force_packing": options.force_packing}
    for name, value in packings.items():
        if value is not None:
            _check_packing(name, value)
    if options.choose_fps < 1 or options.max_num_frames < 1:
        raise InputError(
            f"choose_fps is {options.choose_fps} and max_num_frames {options.max_num_frames}; "
            "both must be at least 1."
        )


def _check_packing(name: str, value: int) -> None:
    if not 1 <= value <= MAX_FRAMES_PER_GROUP:
        raise InputError(f"{name} is {value}; it must be 1 to {MAX_FRAMES_PER_GROUP}.")


def _count_and_packing(duration: float, fps: float, options: VideoOptions) -> tuple[int, int]:
    limit, most = options.max_num_frames, options.max_num_packing
    if options.choose_fps * int(duration) <= limit:
        rate = round(fps) or fps  # of slow slides, the published sampler takes none
        return max(1, round(min(options.choose_fps, rate) * min(limit, duration))), 1
    packing = math.ceil(duration * options.choose_fps / limit)
    if packing <= most:
        return round(duration * options.choose_fps), packing
    return limit * most, most


def _snap(indices: Sequence[int], fps: float, duration: float) -> list[int]:
    """Times of frames as ids on the published 0.1 s grid; a tie takes the earlier.

    The division truncates: in float64, some grid points k · 0.1 / 0.1 come out just below k, so
    their id is k − 1, as published.
    """
    grid = np.arange(0, duration, TIME_SCALE)
    times = np.array(indices) / fps
    above = np.clip(np.searchsorted(grid, times), 0, len(grid) - 1)
    below = np.maximum(above - 1, 0)
    nearest = np.where(times - grid[below] <= np.abs(grid[above] - times), below, above)
    return [int(time) for time in grid[nearest] / TIME_SCALE]


def group_frames(ids: Sequence[int], packing: int) -> tuple[tuple[int, ...], ...]:
    """Split ids into consecutive groups of `packing`, the last one possibly shorter.

    For pictures without times, `range(count)` serves as ids.
    """
    _check_packing("packing", packing)
    return tuple(tuple(ids[i : i + packing]) for i in range(0, len(ids), packing))


def probe_video(path: str | Path) -> VideoInfo:
    """Count the frames of a film without decoding them. Their rate is that of their times: what a
    file says of it may be missing, or be that of a clock.

    Raises `InputError` if the file is not a readable video, or PyAV is not installed.
    """
    av = _import_av()
    with _open(av, Path(path)) as (container, film):
        times = [
            (packet.pts, packet.duration or 0)
            for packet in _demux(av, container, film)
            if not packet.is_discard
        ]
        rate = _rate(times, film)
    if not times or not rate:
        raise InputError(f"{path} holds no frames; give another video.")
    return VideoInfo(len(times), rate)


def _rate(times: list[tuple[int | None, int]], film: Any) -> float | None:
    """Frames per second by the times of the packets and how long they last, or as the file says
    where these agree, or some packet has none."""
    said = film.average_rate or film.guessed_rate
    if len(times) < 2 or not film.time_base or any(time is None for time, _ in times):
        return float(said) if said else None
    times.sort()
    (first, _), (latest, lasts) = times[0], times[-1]
    assert first is not None and latest is not None, "all have times"
    span = latest - first
    last = lasts or span / (len(times) - 1)
    seconds = float((span + last) * film.time_base)
    if seconds <= 0:
        return float(said) if said else None
    measured = len(times) / seconds
    agrees = film.average_rate and abs(measured / float(said) - 1) < _SAME_RATE
    return float(said) if agrees else measured


def read_frames(
    path: str | Path, indices: Sequence[int], background: Colour | None = WHITE
) -> Iterator[Image.Image]:
    """Decode the frames with these ascending numbers, one by one: upright, and on the background if
    they are transparent (None leaves transparency out). They are RGB or RGBX pictures: four bytes a
    pixel need no copy for Pillow, which counts where they are large.

    Frames between them are decoded but not converted: samples lie closer than key frames do. A
    damaged packet costs its frames: the next one stands for them, or the last one at the end.
    Raises `InputError` if no frame can be decoded.
    """
    av = _import_av()
    wanted = iter(indices)
    target = next(wanted, None)
    frame = None
    with _open(av, Path(path)) as (container, film):
        film.thread_type, film.thread_count = "AUTO", _threads(film)
        turns: dict[float, Image.Transpose | None] = {}
        for number, frame in _decode(av, container, film):
            while target is not None and target <= number:
                # A frame whose side data were read is freed late: a cycle of PyAV 18.1.
                if frame.rotation not in turns:
                    turns[frame.rotation] = _turn(frame)
                yield _shown(av, frame, path, background, turns[frame.rotation])
                target = next(wanted, None)
            if target is None:
                return
        if frame is None:
            raise InputError(f"{path} holds no frame that can be decoded; give another video.")
        while target is not None:
            yield _shown(av, frame, path, background, _turn(frame))
            target = next(wanted, None)


def _threads(film: Any) -> int:
    """As many as there are processors, if memory allows: each holds frames of its own."""
    frame = max(1, 3 * int(film.width) * int(film.height))
    return max(1, min(os.cpu_count() or 1, _THREADS_BYTES // frame))


def _decode(av: Any, container: Any, film: Any) -> Iterator[tuple[int, Any]]:
    """Frames as they are shown, with their numbers: how many packets have earlier times. So those
    after a frame that is lost keep theirs; where packets have no times, frames are counted."""
    times: list[int] = []
    number = -1
    for packet in chain(_demux(av, container, film), [None]):  # None: what the decoder still holds
        if packet is not None and packet.pts is not None and not packet.is_discard:
            insort(times, packet.pts)
        try:
            frames = film.decode(packet)
        except av.FFmpegError:
            continue
        for frame in frames:
            number += 1
            earlier = len(times) if frame.pts is None else bisect_left(times, frame.pts)
            if earlier < len(times) and times[earlier] == frame.pts:
                number = max(number, earlier)
            yield number, frame


def _demux(av: Any, container: Any, film: Any) -> Iterator[Any]:
    """Packets, past damage if there are more after it, as players read on."""
    failures = 0
    while failures < _MOST_FAILURES:
        try:
            for packet in container.demux(film):
                failures = 0
                if packet.size:
                    yield packet
            return
        except av.FFmpegError:
            failures += 1


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise InputError(
            "Videos need PyAV, which is not installed; run pip install -e '.[video]'."
        ) from error
    return av


@contextmanager
def _open(av: Any, path: Path) -> Iterator[tuple[Any, Any]]:
    """The open file and its film, which a cover is not."""
    check_file(path, "a video file")
    with _open_container(av, path) as container:
        films = [s for s in container.streams.video if not s.disposition & _cover(av)]
        if not films:
            raise InputError(f"{path} holds no film, only sound, text or a cover; give a video.")
        yield container, films[0]


def _open_container(av: Any, path: Path) -> Any:
    # A name is a file's, whatever it looks like, and what it holds names no other file.
    name = f"file:{path}"
    try:
        return av.open(name, options=_LOCAL)
    except (av.FFmpegError, OSError, ValueError) as error:
        # Fragments are looked through for the last one if the file can be sought in: one that is
        # cut would cost all.
        with suppress(av.FFmpegError, OSError, ValueError):
            return av.open(name, options={**_LOCAL, "seekable": "0"})
        raise InputError(f"{path} cannot be read as a video ({error}); give another.") from error


def _cover(av: Any) -> Any:
    return av.stream.Disposition.attached_pic


def _shown(
    av: Any,
    frame: Any,
    path: str | Path,
    background: Colour | None,
    turn: Image.Transpose | None,
) -> Image.Image:
    """The frame as a player shows it: phones store films rotated, and mirrored by front cameras."""
    clear = frame.format.name in _PALETTES or any(part.is_alpha for part in frame.format.components)
    try:
        plane = frame.reformat(format="rgba" if clear else "rgb0").planes[0]
    except av.FFmpegError as error:
        raise InputError(f"{path} cannot be converted ({error}); give another video.") from error
    # Of these modes, Pillow takes the frame's memory as it is.
    mode = "RGBA" if clear else "RGBX"
    size = frame.width, frame.height
    image = Image.frombuffer(mode, size, plane, "raw", mode, plane.line_size, 1)
    if clear:
        image = convert(image, str(path), background)
    return image if turn is None else image.transpose(turn)


def _turn(frame: Any) -> Image.Transpose | None:
    """What the display matrix does, by the nearest of eight. It is that of ISO 14496-12, of rows
    (a, b, u), (c, d, v), (x, y, w): a pixel is shown at (a·x + c·y, b·x + d·y), moved into the
    picture."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18.1, of frames with data that it has no name for, such as EXIF
        return _ROTATIONS.get(round(frame.rotation))
    if matrix is None:
        return None
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if swapped else (a, d)
    return _TURNS.get((swapped, across < 0, down < 0))
