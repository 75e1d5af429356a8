"""Frames that the Swift package chooses from videos against the Python runtime's choice."""

import json

import numpy as np

from mobile_runtime.errors import InputError
from mobile_runtime.pictures.video import VideoInfo, VideoOptions, plan_frames


def _videos(count):
    rng = np.random.default_rng(0)
    rates = [1, 10, 15, 23.976, 24000 / 1001, 24, 25, 29.97, 30, 50, 59.94, 60, 120, 240]
    for n in range(count):
        seconds = float(np.exp(rng.uniform(np.log(0.01), np.log(4000))))
        fps = float(rng.choice(rates)) if n % 2 else float(np.exp(rng.uniform(-2, 5)))
        yield {
            "frame_count": max(1, round(seconds * fps)),
            "fps": fps,
            "choose_fps": int(rng.integers(1, 11)) if n % 3 else 5,
            "max_num_frames": int(rng.integers(1, 200)) if n % 5 == 0 else 180,
            "max_num_packing": int(rng.integers(1, 7)) if n % 3 else 3,
            "force_packing": int(rng.integers(1, 7)) if n % 4 == 0 else None,
        }


def _plan(video):
    options = {name: value for name, value in video.items() if name not in ("frame_count", "fps")}
    try:
        plan = plan_frames(VideoInfo(video["frame_count"], video["fps"]), VideoOptions(**options))
    except InputError as error:
        return {"error": str(error)}
    return {"indices": list(plan.indices), "temporal_ids": [list(g) for g in plan.temporal_ids]}


def _compare(minicpmv, tmp_path, videos):
    (tmp_path / "videos.json").write_text(json.dumps(videos))
    got = [json.loads(line) for line in minicpmv("frames", tmp_path / "videos.json").splitlines()]
    assert len(got) == len(videos)
    for video, plan in zip(videos, got, strict=True):
        assert plan == _plan(video), video


def test_plans_of_3000_videos_are_equal(minicpmv, tmp_path):
    _compare(minicpmv, tmp_path, list(_videos(3000)))


def test_refusals_are_equal(minicpmv, tmp_path):
    good = {"frame_count": 50, "fps": 10.0, "choose_fps": 5, "max_num_frames": 180}
    good |= {"max_num_packing": 3, "force_packing": None}
    wrong = [("frame_count", 0), ("choose_fps", 0), ("max_num_frames", 0), ("fps", -1.5)]
    wrong += [("max_num_packing", 7), ("force_packing", 0), ("force_packing", 7)]
    _compare(minicpmv, tmp_path, [good | {name: value} for name, value in wrong])
