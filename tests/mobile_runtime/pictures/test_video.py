import builtins
import math
import struct
from fractions import Fraction

import numpy as np
import pytest

from mobile_runtime.errors import InputError
from mobile_runtime.pictures.video import (
    VideoInfo,
    VideoOptions,
    fit_frames,
    group_frames,
    plan_frames,
    probe_video,
    read_frames,
)


def _published_count(frames, fps, choose_fps, packings=3):
    """Number of frames and frames a group, from the published description."""
    duration = frames / fps
    if choose_fps * math.floor(duration) <= 180:
        return round(min(choose_fps, round(fps)) * min(180, duration)), 1
    packing = math.ceil(duration * choose_fps / 180)
    if packing > packings:
        return 180 * packings, packings
    return round(duration * choose_fps), packing


@pytest.mark.parametrize("fps", [1, 2.6, 3.4, 10, 23.976, 25, 30, 60])
@pytest.mark.parametrize("seconds", [1, 5, 36, 36.9, 37, 40, 71, 72, 73, 107, 108, 109, 3600])
@pytest.mark.parametrize("choose_fps", [1, 3, 5])
def test_plan_takes_the_published_number_of_frames(fps, seconds, choose_fps):
    info = VideoInfo(round(seconds * fps), fps)
    count, packing = _published_count(info.frame_count, fps, choose_fps)
    plan = plan_frames(info, VideoOptions(choose_fps))
    assert len(plan.indices) == count
    assert [len(group) for group in plan.temporal_ids[:-1]] == [packing] * (
        math.ceil(count / packing) - 1
    )
    assert sum(map(len, plan.temporal_ids)) == count
    assert plan.indices[0] >= 0 and plan.indices[-1] < info.frame_count
    assert list(plan.indices) == sorted(plan.indices)


def test_frames_are_the_centres_of_equal_segments():
    # 2 s at 5 of 20 frames a second: 10 segments of 4 frames.
    assert plan_frames(VideoInfo(40, 20)).indices == (2, 6, 10, 14, 18, 22, 26, 30, 34, 38)


def test_ids_count_tenths_of_a_second_with_the_published_rounding():
    plan = plan_frames(VideoInfo(165, 10), VideoOptions(choose_fps=10))
    assert plan.indices == tuple(range(165))
    ids = [time for group in plan.temporal_ids for time in group]
    # The published sampler truncates k · 0.1 / 0.1, which float64 puts below some k.
    differing = {k: time for k, time in enumerate(ids) if time != k}
    assert differing == {43: 42, 81: 80, 86: 85, 91: 90, 162: 161}


def test_ids_are_the_nearest_tenth():
    plan = plan_frames(VideoInfo(3000, 30))
    ids = [time for group in plan.temporal_ids for time in group]
    tenths = [index / 30 * 10 for index in plan.indices]
    assert all(
        -1 - 1e-9 <= time - tenth <= 0.5 + 1e-9 for time, tenth in zip(ids, tenths, strict=True)
    )
    assert ids == sorted(ids)


def test_last_id_stays_inside_the_video():
    plan = plan_frames(VideoInfo(3, 30), VideoOptions(choose_fps=30))
    assert plan.indices == (0, 1, 2)
    assert plan.temporal_ids == ((0,), (0,), (0,))


def test_forced_packing_is_capped():
    info = VideoInfo(50, 10)  # 25 frames
    sizes = [len(g) for g in plan_frames(info, VideoOptions(force_packing=2)).temporal_ids]
    assert sizes == [2] * 12 + [1]
    plan = plan_frames(info, VideoOptions(force_packing=6))
    assert max(map(len, plan.temporal_ids)) == 3
    plan = plan_frames(info, VideoOptions(max_num_packing=6, force_packing=6))
    assert [len(group) for group in plan.temporal_ids] == [6, 6, 6, 6, 1]


@pytest.mark.parametrize("info", [VideoInfo(1, 30), VideoInfo(2, 25), VideoInfo(1, 0.4)])
def test_very_short_video_gives_one_frame(info):
    plan = plan_frames(info)
    assert len(plan.indices) == 1 and len(plan.temporal_ids) == 1


@pytest.mark.parametrize(
    ("info", "options"),
    [
        (VideoInfo(0, 30), VideoOptions()),
        (VideoInfo(10, 0), VideoOptions()),
        (VideoInfo(10, math.inf), VideoOptions()),
        (VideoInfo(10, 30), VideoOptions(choose_fps=0)),
        (VideoInfo(10, 30), VideoOptions(max_num_frames=0)),
        (VideoInfo(10, 30), VideoOptions(max_num_packing=7)),
        (VideoInfo(10, 30), VideoOptions(force_packing=0)),
    ],
)
def test_impossible_plan_is_refused(info, options):
    with pytest.raises(InputError):
        plan_frames(info, options)


def test_a_plan_that_fits_is_the_published_one():
    info = VideoInfo(300, 30)
    assert fit_frames(info, VideoOptions(), 50) == plan_frames(info)


@pytest.mark.parametrize("seconds", [7, 20, 60, 600, 100_000])
@pytest.mark.parametrize("groups", [1, 2, 23, 100])
def test_a_plan_is_made_to_fit(seconds, groups):
    """With more frames in a group before there are fewer of them."""
    info = VideoInfo(30 * seconds, 30)
    published, plan = plan_frames(info), fit_frames(info, VideoOptions(), groups)
    assert len(plan.temporal_ids) <= groups
    packings = {len(group) for group in plan.temporal_ids[:-1]} or {len(plan.temporal_ids[0])}
    if len(plan.indices) < len(published.indices):
        assert packings == {6} and len(plan.indices) == 6 * groups
    else:
        assert plan.indices == published.indices
        least = len(published.temporal_ids[0])
        fewer = len(plan.temporal_ids[0]) - 1
        assert fewer < least or -(-len(plan.indices) // fewer) > groups
    ids = [time for group in plan.temporal_ids for time in group]
    assert ids == sorted(ids) and ids[-1] <= 10 * seconds


def test_settings_of_a_part_are_the_samplers():
    info = VideoInfo(300, 30)
    assert plan_frames(info, VideoOptions.of_part({})) == plan_frames(info)
    plan = plan_frames(info, VideoOptions.of_part({"fps": 2, "packing": 5}))
    assert len(plan.indices) == 20 and [len(group) for group in plan.temporal_ids] == [5] * 4
    assert len(plan_frames(info, VideoOptions.of_part({"max_frames": 7})).indices) == 7
    with pytest.raises(InputError, match="packing is 7; it must be 1 to 6"):
        plan_frames(info, VideoOptions.of_part({"packing": 7}))


def test_a_video_of_years_is_refused():
    with pytest.raises(InputError, match="says that it lasts"):
        plan_frames(VideoInfo(2, 1 / (2**31 - 1)))


def test_group_frames_splits_consecutive_ids():
    assert group_frames(range(5), 2) == ((0, 1), (2, 3), (4,))
    assert group_frames([], 3) == ()
    with pytest.raises(InputError, match="1 to 6"):
        group_frames(range(5), 7)


def _write_clip(path, frames, fps=10, codec="mpeg4"):
    """Encode grey frames (frame i has the level 10 + 6 · i) of 64 × 48 pixels."""
    av = pytest.importorskip("av", reason="encodes a clip")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.bit_rate = 4_000_000
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            pixels = np.full((48, 64, 3), 10 + 6 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _level(image):
    return float(np.asarray(image.convert("RGB")).mean())


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv"])
def test_frames_of_a_file_are_those_of_the_plan(name, tmp_path):
    path = tmp_path / name
    _write_clip(path, 40)
    assert probe_video(path) == VideoInfo(40, 10.0)
    plan = plan_frames(VideoInfo(40, 10))
    frames = list(read_frames(path, plan.indices))
    assert len(frames) == len(plan.indices) == 20
    for index, image in zip(plan.indices, frames, strict=True):
        assert image.size == (64, 48) and image.mode in ("RGB", "RGBX")
        assert abs(_level(image) - (10 + 6 * index)) < 3


def test_reordered_frames_come_in_display_order(tmp_path):
    path = tmp_path / "clip.mp4"
    try:
        _write_clip(path, 40, codec="libx264")  # with B-frames
    except ValueError:
        pytest.skip("this PyAV has no H.264 encoder")
    levels = [_level(image) for image in read_frames(path, range(40))]
    assert np.abs(np.array(levels) - (10 + 6 * np.arange(40))).max() < 4


def test_portrait_video_is_turned_upright(tmp_path):
    av = pytest.importorskip("av", reason="encodes a clip")
    path = tmp_path / "portrait.mp4"
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, 32:] = 200  # stored: left half dark, right half light
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    # The track header's matrix (ISO 14496-12) as a phone writes it: x' = 48 − y, y' = x.
    content = bytearray(path.read_bytes())
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    start = content.index(b"tkhd") + 44
    content[start : start + len(matrix)] = matrix
    path.write_bytes(content)
    (frame,) = read_frames(path, [0])
    shown = np.asarray(frame.convert("RGB")).astype(int)
    assert frame.size == (48, 64)
    assert shown[:28].max() < 60 and shown[36:].min() > 140


def test_repeated_and_missing_frames_are_given_again(tmp_path):
    _write_clip(tmp_path / "clip.mp4", 5)
    levels = [_level(image) for image in read_frames(tmp_path / "clip.mp4", [1, 1, 4, 9])]
    assert levels[0] == levels[1] and levels[2] == levels[3]
    assert abs(levels[0] - 16) < 3 and abs(levels[3] - 34) < 3


def test_file_that_is_no_video_is_named(tmp_path):
    pytest.importorskip("av", reason="opens files")
    (tmp_path / "notes.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    for name in ("none.mp4", "notes.mp4", "empty.mp4"):
        with pytest.raises(InputError, match=name):
            probe_video(tmp_path / name)


def test_sound_alone_is_refused(tmp_path):
    av = pytest.importorskip("av", reason="encodes a sound")
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(InputError, match="only sound"):
        probe_video(path)


def _write_timed(path, milliseconds, rate=1000):
    """Encode a frame at each of the times; the file says `rate` frames a second."""
    av = pytest.importorskip("av", reason="encodes a clip")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time in enumerate(milliseconds):
            pixels = np.full((48, 64, 3), 10 + i % 40 * 6, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_clock_is_not_a_rate(tmp_path):
    """As a browser records: 60 frames in 2.83 s, at times of a millisecond clock."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.choice(np.arange(1, 2780), 59, replace=False)).tolist()
    _write_timed(tmp_path / "clip.mkv", [0, *times])
    info = probe_video(tmp_path / "clip.mkv")
    assert info.frame_count == 60 and info.fps == pytest.approx(60 / 2.83, rel=0.03)
    ids = [time for group in plan_frames(info).temporal_ids for time in group]
    assert len(ids) == 14 and ids[0] <= 1 and 26 <= ids[-1] <= 28


def test_a_recording_that_stands_still_lasts_as_long_as_it_does(tmp_path):
    """Three seconds of motion, twenty without a frame, three of motion."""
    moving = [round(n * 1000 / 30) for n in range(90)]
    _write_timed(tmp_path / "clip.mkv", [*moving, *(23_000 + time for time in moving)], rate=30)
    info = probe_video(tmp_path / "clip.mkv")
    assert info.frame_count == 180 and info.fps == pytest.approx(180 / 26, rel=0.01)
    ids = [time for group in plan_frames(info).temporal_ids for time in group]
    assert len(ids) == 130 and ids[-1] == pytest.approx(258, abs=2)


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_of_slow_slides_each_is_taken(count):
    """The published sampler rounds their rate to none at all, unless the film is long."""
    assert plan_frames(VideoInfo(count, 0.25)).indices == tuple(range(count))


@pytest.mark.parametrize("name", ["2024-05-01T10:30.mp4", "a b#c?d.mp4", "100%.mp4", "http:x.mp4"])
def test_a_name_is_that_of_a_file(name, tmp_path, monkeypatch):
    _write_clip(tmp_path / "clip.mp4", 5)
    (tmp_path / "clip.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, f"./{name}", tmp_path / name):
        assert probe_video(path).frame_count == 5
        assert len(list(read_frames(path, [0, 4]))) == 2


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nclip.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile clip.mp4\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
    ids=["m3u8", "concat", "dash", "sdp"],
)
@pytest.mark.parametrize("suffix", ["mp4", "own"])
def test_a_list_of_other_files_is_no_video(content, suffix, tmp_path):
    _write_clip(tmp_path / "clip.mp4", 5)
    path = tmp_path / f"list.{suffix}"
    path.write_text(content)
    with pytest.raises(InputError, match=path.name):
        probe_video(path)


def test_a_damaged_packet_costs_its_frames_and_not_the_film(tmp_path):
    path = tmp_path / "clip.mp4"
    _write_clip(path, 40)
    content = bytearray(path.read_bytes())
    begin = content.index(b"mdat")
    size = int.from_bytes(content[begin - 4 : begin], "big")
    middle = begin + size // 2
    content[middle : middle + size // 8] = bytes(n % 256 for n in range(size // 8))
    path.write_bytes(content)
    info = probe_video(path)
    frames = list(read_frames(path, plan_frames(info).indices))
    assert info.frame_count == 40 and len(frames) == 20
    assert abs(_level(frames[0]) - 22) < 20


def _with_cover(path, film):
    """A file whose first stream is a cover, with a film or a sound after it."""
    av = pytest.importorskip("av", reason="encodes a clip")
    with av.open(str(path), "w", format="mp4") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        try:
            cover.disposition = av.stream.Disposition.attached_pic
        except AttributeError:
            pytest.skip("this PyAV writes no covers")
        if film:
            other = container.add_stream("mpeg4", rate=10)
            other.width, other.height, other.pix_fmt = 64, 48, "yuv420p"
        else:
            other = container.add_stream("aac", rate=44100, layout="mono")
        white = np.full((32, 32, 3), 255, np.uint8)
        container.mux(cover.encode(av.VideoFrame.from_ndarray(white, format="rgb24")))
        container.mux(cover.encode())
        for i in range(10):
            if film:
                pixels = np.full((48, 64, 3), 10 + i, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            else:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                frame.rate = 44100
            container.mux(other.encode(frame))
        container.mux(other.encode())


def test_a_cover_is_not_the_film(tmp_path):
    path = tmp_path / "clip.mp4"
    _with_cover(path, film=True)
    assert probe_video(path).frame_count == 10
    (frame,) = read_frames(path, [0])
    assert frame.size == (64, 48)


def test_a_song_with_a_cover_has_no_film(tmp_path):
    path = tmp_path / "song.m4a"
    _with_cover(path, film=False)
    with pytest.raises(InputError, match=r"song.m4a holds no film"):
        probe_video(path)


def test_missing_pyav_names_the_extra(monkeypatch, tmp_path):
    original = builtins.__import__

    def without_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(InputError, match=r"pip install -e '\.\[video\]'"):
        probe_video(tmp_path / "clip.mp4")
