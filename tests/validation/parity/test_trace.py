"""`trace`: the same arrays from PyTorch and from a saved bundle, and the command lines' errors."""

import json

import numpy as np
import pytest

from validation.chats import picture
from validation.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A chat with two pictures, a video of frames, and a second turn."""
    path = tmp_path_factory.mktemp("chat")
    for n in range(3):
        picture(120, 90, n).save(path / f"{n}.png")
    (path / "pictures.json").write_text(
        json.dumps(
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "0.png"},
                        {"type": "image", "image": "1.png"},
                        {"type": "text", "text": "Compare."},
                    ],
                },
                {"role": "assistant", "content": "They differ."},
                {"role": "user", "content": "How?"},
            ]
        )
    )
    frames = {"type": "video", "video": ["0.png", "1.png", "2.png"]}
    (path / "video.json").write_text(
        json.dumps(
            {
                "messages": [{"role": "user", "content": [frames, {"type": "text", "text": "?"}]}],
                "temporal_ids": [[0, 3, 6]],
                "enable_thinking": True,
                "max_slice_nums": 1,
                "use_image_id": False,
            }
        )
    )
    return path


@pytest.mark.parametrize(
    ("chat", "groups", "rotate"), [("pictures", 2, False), ("video", 1, False), ("video", 1, True)]
)
def test_bundle_and_checkpoint_give_the_same_arrays(
    folder, chat, groups, rotate, random_checkpoint, make_bundle, tmp_path, capsys
):
    messages = ["--messages", str(folder / f"{chat}.json"), "--max-new-tokens", "5"]
    outputs = {name: tmp_path / f"{name}.npz" for name in ("reference", "bundle")}
    checkpoint = ["--checkpoint", str(random_checkpoint), "--output", str(outputs["reference"])]
    made = make_bundle("none", "state", 320, rotate=rotate)
    bundle = ["--bundle", str(made), "--output", str(outputs["bundle"])]
    assert main(["trace", *checkpoint, *messages]) == 0
    assert main(["trace", *bundle, *messages]) == 0
    assert capsys.readouterr().out.split() == [str(path) for path in outputs.values()]
    expected, got = np.load(outputs["reference"]), np.load(outputs["bundle"])
    assert sorted(got.files) == sorted(expected.files)
    for name in ("input_ids", "image_bound", "tgt_sizes", "greedy_tokens"):
        assert np.array_equal(got[name], expected[name]), name
    assert got["image_embeds"].shape == (groups, 64, 256)
    assert got["logits"].shape == expected["logits"].shape == (
        int(got["input_ids"].max()) + 1,
    ) or (got["logits"].shape == expected["logits"].shape)
    assert np.abs(got["image_embeds"] - expected["image_embeds"]).max() < 2e-3
    assert np.abs(got["logits"] - expected["logits"]).max() < 2e-3


def _error(capsys, arguments):
    code = main(arguments)
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_wrong_inputs_are_one_sentence_and_exit_code_2(
    folder, make_bundle, random_checkpoint, tmp_path, capsys
):
    bundle = str(make_bundle("none", "state", 320))
    broken, empty = tmp_path / "broken.json", tmp_path / "empty.json"
    broken.write_text("{")
    empty.write_text("{}")
    text = tmp_path / "text.json"
    picture_part = {"type": "image", "image": "not a picture.png"}
    (tmp_path / "not a picture.png").write_text("words")
    text.write_text(json.dumps([{"role": "user", "content": [picture_part]}]))
    unknown = tmp_path / "unknown.json"
    unknown.write_text(json.dumps({"messages": [], "temperature": 1}))
    long = tmp_path / "long.json"
    long.write_text(json.dumps([{"role": "user", "content": "word " * 400}]))
    out = ["--output", str(tmp_path / "out.npz")]

    def trace(path, *more):
        return ["trace", "--bundle", bundle, "--messages", str(path), *out, *more]

    assert "not valid JSON" in _error(capsys, trace(broken))
    assert "'messages'" in _error(capsys, trace(empty))
    assert "not a picture.png" in _error(capsys, trace(text))
    assert "'temperature'" in _error(capsys, trace(unknown))
    assert "the context holds 320" in _error(capsys, trace(long))
    assert "has no absent.json; give a chat" in _error(capsys, trace(tmp_path / "absent.json"))
    assert "give 1 or more" in _error(capsys, trace(folder / "video.json", "--max-new-tokens", "0"))
    assert "no checkpoint at" in _error(
        capsys,
        ["trace", "--checkpoint", "/absent", "--messages", str(folder / "video.json"), *out],
    )
    assert "is not a bundle" in _error(
        capsys, ["parity", str(tmp_path), "--checkpoint", str(random_checkpoint)]
    )
    assert "no stage nothing" in _error(
        capsys,
        ["parity", bundle, "--checkpoint", str(random_checkpoint), "--stages", "nothing"],
    )
    assert list(tmp_path.glob("*.npz")) == []


def test_parity_command_prints_a_table_and_writes_the_report(
    make_bundle, random_checkpoint, tmp_path, capsys
):
    output = tmp_path / "report.json"
    arguments = ["parity", str(make_bundle("int4-fast", "state", 320))]
    arguments += ["--checkpoint", str(random_checkpoint), "--output", str(output)]
    assert main([*arguments, "--max-new-tokens", "2", "--stages", "vision_encoder"]) == 0
    printed = capsys.readouterr().out
    assert "vision_encoder" in printed
    assert "not run" in printed
    report = json.loads(output.read_text())
    stages = {stage["stage"]: stage["status"] for stage in report["stages"]}
    assert stages["vision_encoder"] == "passed"
    assert stages["greedy_tokens"] == "not run"
