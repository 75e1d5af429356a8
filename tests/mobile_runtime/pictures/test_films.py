"""Films as players show them: turned and mirrored, transparent, damaged, cut, and large."""

import os
import struct

import numpy as np
import pytest
from PIL import Image

from mobile_runtime.pictures.video import plan_frames, probe_video, read_frames
from tests.processes import run_python

av = pytest.importorskip("av", reason="encodes films")
ONE = 1 << 16


def write_film(path, pictures, codec="mpeg4", pix_fmt="yuv420p", container=None, **options):
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=10, options=options)
        stream.bit_rate = 4_000_000
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for pixels in pictures:
            layout = "rgba" if pixels.shape[2] == 4 else "rgb24"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format=layout)))
        file.mux(stream.encode())


def grey(level, height=48, width=64):
    return np.full((height, width, 3), level, np.uint8)


def levels(images):
    return [round(float(np.asarray(image.convert("L")).mean())) for image in images]


def quarters():
    """Four quarters of different levels; stored in a picture that is wider than high."""
    pixels = grey(0)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, :32], pixels[24:, 32:] = 20, 90, 160, 230
    return pixels


def patched(path, a, b, c, d):
    """The film with this matrix in its track's header (ISO 14496-12)."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def shown(pixels, a, b, c, d):
    """Each stored pixel at (a·x + c·y, b·x + d·y), moved into the picture."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    out = np.empty((down.max() + 1, across.max() + 1, 3), np.uint8)
    out[down, across] = pixels
    return out


MATRICES = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)]
MATRICES += [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
@pytest.mark.parametrize("scale", [ONE, ONE // 2])
def test_a_film_is_turned_and_mirrored_as_its_matrix_says(matrix, scale, tmp_path):
    path = tmp_path / "film.mp4"
    write_film(path, [quarters()] * 2)
    patched(path, *(scale * one for one in matrix))
    expected = shown(quarters(), *matrix).astype(int)
    for frame in read_frames(path, [0, 1]):
        assert frame.size == expected.shape[1::-1]
        assert np.abs(np.asarray(frame.convert("RGB")).astype(int) - expected).mean() < 4


@pytest.mark.parametrize(
    ("degrees", "matrix"), [(5, (1, 0, 0, 1)), (85, (0, 1, -1, 0)), (-100, (0, -1, 1, 0))]
)
def test_other_turns_are_taken_as_the_nearest_quarter(degrees, matrix, tmp_path):
    path = tmp_path / "film.mp4"
    write_film(path, [quarters()])
    cosine, sine = (round(ONE * f(np.radians(degrees))) for f in (np.cos, np.sin))
    patched(path, cosine, sine, -sine, cosine)
    (frame,) = read_frames(path, [0])
    expected = shown(quarters(), *matrix).astype(int)
    assert np.abs(np.asarray(frame.convert("RGB")).astype(int) - expected).mean() < 4


@pytest.mark.parametrize(
    ("orientation", "matrix"), [(1, (1, 0, 0, 1)), (3, (-1, 0, 0, -1)), (6, (0, 1, -1, 0))]
)
def test_a_photo_as_a_film_is_turned_as_its_exif_says(orientation, matrix, tmp_path):
    """Its frame has data that PyAV has no name for."""
    exif, path = Image.Exif(), tmp_path / "photo.jpg"
    exif[0x0112] = orientation
    Image.fromarray(quarters()).save(path, exif=exif, quality=95)
    (frame,) = read_frames(path, [0])
    expected = shown(quarters(), *matrix).astype(int)
    assert np.abs(np.asarray(frame.convert("RGB")).astype(int) - expected).mean() < 4


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("film.mkv", "ffv1", "bgra"), ("film.mov", "qtrle", "argb"), ("film.apng", "apng", "rgba")],
)
def test_transparent_films_show_the_background(name, codec, pix_fmt, tmp_path):
    path = tmp_path / name
    pixels = np.dstack([grey(100), np.full((48, 64), 0, np.uint8)])
    pixels[:, 32:, 3] = 255
    try:
        write_film(path, [pixels] * 3, codec, pix_fmt)
    except ValueError:
        pytest.skip(f"this PyAV writes no {name}")
    for background, left in [((255, 255, 255), 255), ((0, 0, 0), 0), (None, 100)]:
        for frame in read_frames(path, [0, 2], background):
            found = np.asarray(frame.convert("RGB"))
            assert found[:, :32].min() == found[:, :32].max() == left
            assert found[:, 32:].min() == found[:, 32:].max() == 100


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mov"])
@pytest.mark.parametrize("lost", [[0], [7], [4, 5, 6, 12], [19]])
def test_lost_frames_do_not_move_the_others(suffix, lost, tmp_path):
    path = tmp_path / f"film.{suffix}"
    write_film(path, [grey(10 + 12 * n) for n in range(20)], "mjpeg", "yuvj420p")
    with av.open(str(path)) as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for number in lost:
        begin = content.index(packets[number])
        content[begin : begin + len(packets[number])] = bytes(len(packets[number]))
    path.write_bytes(content)
    assert probe_video(path).frame_count == 20
    found = levels(read_frames(path, range(20)))
    intact = [n for n in range(20) if n not in lost]
    for n in intact:
        assert abs(found[n] - (10 + 12 * n)) < 5
    for n in lost:  # the next one, or the last
        stands = next((m for m in intact if m > n), intact[-1])
        assert found[n] == found[stands]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("fragments", ["frag_keyframe", "frag_every_frame"])
def test_of_a_cut_film_in_fragments_is_shown_what_is_there(codec, fragments, tmp_path):
    whole, path = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    noise = np.random.default_rng(0).integers(0, 40, (48, 64, 3), np.uint8)
    pictures = [noise + np.uint8(4 * n) for n in range(40)]
    try:
        write_film(
            whole, pictures, codec, container={"movflags": f"{fragments}+empty_moov"}, g="5", bf="0"
        )
    except ValueError:
        pytest.skip(f"this PyAV has no {codec}")
    content = whole.read_bytes()
    counts = []
    for cut in np.linspace(0.4, 0.98, 30):
        path.write_bytes(content[: int(len(content) * cut)])
        info = probe_video(path)
        counts.append(info.frame_count)
        assert abs(info.fps - 10) < 0.5
        frames = list(read_frames(path, plan_frames(info).indices))
        assert len(frames) == len(plan_frames(info).indices)
    assert counts == sorted(counts) and counts[0] >= 8 and counts[-1] >= 34


MEASURE = """
import resource, sys
import numpy as np
from PIL import Image
import av
from mobile_runtime.bundle import Preprocessing
from mobile_runtime.chat.media import load_frames
from mobile_runtime.chat.messages import Media, Turn
def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
half = (0.5, 0.5, 0.5)
config = Preprocessing(448, 14, 9, True, True, half, half, 64, 70, 1088)
def load(source):
    (frames,) = load_frames([Turn("user", (Media("video", source),), None)], config, room=2048)
    return frames
load([Image.new("RGB", (64, 48))])
before = peak()
frames = load(sys.argv[1])
print(len(frames.views), peak() - before)
"""


@pytest.mark.skipif(os.name == "nt", reason="measures memory as Unix does")
def test_a_long_film_takes_the_memory_of_its_views_and_a_few_frames(tmp_path):
    """120 frames of 1080p, half of which are read, and turned. With views of floats and more copies
    of a frame, it was 220 MB."""
    path = tmp_path / "film.mp4"
    small = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
    large = np.asarray(Image.fromarray(small).resize((1920, 1080)))
    try:
        write_film(path, [large] * 120, "libx264", preset="ultrafast", crf="30", g="100")
    except ValueError:
        pytest.skip("this PyAV has no H.264 encoder")
    patched(path, -ONE, 0, 0, ONE)
    ran = run_python("-c", MEASURE, path)
    assert ran.returncode == 0, ran.stderr
    count, taken = map(int, ran.stdout.split())
    view = 602_000
    assert count == 60 and taken < count * view + 130_000_000
