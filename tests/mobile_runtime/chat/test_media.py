"""A video given as a list of frames, without times: how many fit, and how they are grouped."""

import dataclasses
import weakref

import pytest
from PIL import Image

from mobile_runtime.chat import media
from mobile_runtime.chat.media import load_frames
from mobile_runtime.chat.messages import Media, Turn
from mobile_runtime.errors import InputError
from mobile_runtime.pictures.rgb import WHITE
from mobile_runtime.pictures.video import VideoInfo


def load(preprocessing, count):
    """The frames of a video of `count` black pictures, in the smallest views."""
    config = dataclasses.replace(preprocessing, scale_resolution=preprocessing.patch_size)
    video = Media("video", [Image.new("RGB", (1, 1))] * count)
    (frames,) = load_frames([Turn("user", (video,), None)], config)
    return frames


# The published sampler has at most 180 groups, the published resampler takes 6 frames in one.
@pytest.mark.parametrize(("count", "size"), [(1, 1), (180, 1), (181, 2), (360, 2), (1080, 6)])
def test_frames_are_grouped_when_they_are_more_than_the_groups(preprocessing, count, size):
    groups = load(preprocessing, count).layout.temporal_ids
    assert [time for group in groups for time in group] == list(range(count))
    assert {len(group) for group in groups[:-1]} <= {size}
    assert len(groups) == -(-count // size)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "at least one frame"), (1081, "1081 frames is too long; give at most 1080 of them")],
)
def test_no_frames_and_too_many_are_refused(preprocessing, count, text):
    with pytest.raises(InputError, match=text):
        load(preprocessing, count)


def test_frames_of_a_file_are_cut_one_by_one(preprocessing, monkeypatch):
    """So that a film of any length takes the memory of few frames."""
    alive = []

    def read(path, indices, background):
        for _ in indices:
            frame = Image.new("RGB", (40, 30))
            alive.append(weakref.ref(frame))
            assert sum(one() is not None for one in alive) <= 3
            yield frame

    monkeypatch.setattr(media, "probe_video", lambda path: VideoInfo(100, 10))
    monkeypatch.setattr(media, "read_frames", read)
    (frames,) = load_frames([Turn("user", (Media("video", "film.mp4"),), None)], preprocessing)
    assert len(frames.views) == len(alive) == 50


@pytest.mark.parametrize("size", [(20_000_000, 1), (1, 20_000_000)])
def test_a_line_of_pixels_is_refused_before_it_is_scaled(preprocessing, size, monkeypatch):
    monkeypatch.setattr(media, "cut_image", None)
    line = Media("image", Image.new("L", size))
    with pytest.raises(InputError, match="give one with sides of at most 1,000,000"):
        load_frames([Turn("user", (line,), None)], preprocessing)


def test_a_view_of_too_many_patches_is_refused_before_it_is_cut(preprocessing, monkeypatch):
    monkeypatch.setattr(media, "cut_image", None)
    line = Media("image", Image.new("L", (1, 9000)))
    with pytest.raises(InputError, match="crop the picture to a less extreme aspect"):
        load_frames([Turn("user", (line,), None)], preprocessing)


def film(monkeypatch, seconds, **sampling):
    """A film of so many seconds whose frames are black."""
    monkeypatch.setattr(media, "probe_video", lambda path: VideoInfo(30 * seconds, 30))
    black = Image.new("RGB", (40, 30))
    monkeypatch.setattr(
        media, "read_frames", lambda path, indices, background: (black for _ in indices)
    )
    return Turn("user", (Media("video", "film.mp4", sampling),), None)


@pytest.mark.parametrize("seconds", [1, 6, 30, 600])
@pytest.mark.parametrize("films", [1, 2])
@pytest.mark.parametrize("pictures", [0, 2])
def test_films_of_any_length_fit_the_room(preprocessing, monkeypatch, seconds, films, pictures):
    turn = film(monkeypatch, seconds)
    photo = Turn("user", (Media("image", Image.new("RGB", (40, 30))),), None)
    found = load_frames([photo] * pictures + [turn] * films, preprocessing, room=2048)
    tokens = 0
    for frames in found:
        groups = frames.layout.temporal_ids
        tokens += 66 * (len(frames.views) if groups is None else len(groups))
    assert tokens <= 2048 - 470, "there is room for questions and answers"
    if seconds == 600:
        assert tokens > 1200, "the room is used"


@pytest.mark.parametrize("slices", [2, 9])
def test_slices_of_frames_take_room_too(preprocessing, monkeypatch, slices):
    turn = film(monkeypatch, 600)
    (frames,) = load_frames([turn], preprocessing, slices, room=4096)
    assert 66 * (slices + 1) * len(frames.layout.temporal_ids) <= 4096


def test_a_film_without_slices_is_refused(preprocessing, monkeypatch):
    with pytest.raises(InputError, match="max_slice_nums is 0"):
        load_frames([film(monkeypatch, 60)], preprocessing, 0, room=2048)


def test_listed_frames_take_no_settings(preprocessing):
    listed = Media("video", [Image.new("RGB", (1, 1))] * 5, {"max_frames": 2})
    with pytest.raises(InputError, match="a list of frames has max_frames; leave it out"):
        load_frames([Turn("user", (listed,), None)], preprocessing)


def test_frames_that_were_asked_for_are_refused_before_they_are_decoded(preprocessing, monkeypatch):
    turn = film(monkeypatch, 30, fps=5)
    monkeypatch.setattr(media, "read_frames", None)
    with pytest.raises(InputError, match="read as 150 frames in 150 groups, and the context has"):
        load_frames([turn], preprocessing, room=2048)
    turn = film(monkeypatch, 30, fps=2, packing=3)
    (frames,) = load_frames([turn], preprocessing, room=2048)
    assert len(frames.views) == 60 and len(frames.layout.temporal_ids) == 20


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize(
    ("background", "level"), [(WHITE, 255), ((0, 0, 0), 0), (None, 51)], ids=str
)
def test_transparent_pictures_and_listed_frames_show_the_background(
    preprocessing, kind, background, level
):
    clear = Image.new("RGBA", (40, 30), (51, 51, 51, 0))
    media = Media(kind, clear if kind == "image" else [clear] * 2, background=background)
    (frames,) = load_frames([Turn("user", (media,), None)], preprocessing)
    for (view,) in frames.views:
        assert view.pixels.min() == view.pixels.max() == level
