"""The command line: what it prints, and that mistakes are one sentence and exit code 2."""

import io

import numpy as np
import pytest
from PIL import Image

from mobile_runtime import cli
from mobile_runtime.cli import main
from mobile_runtime.session import Session


@pytest.fixture(scope="module")
def bundle(make_bundle):
    return make_bundle("int4-fast", "state", 256)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.arange(120 * 90 * 3).astype(np.uint8).reshape(90, 120, 3)).save(path)
    return path


def test_question_after_the_options_as_documented(bundle, photo, capsys):
    arguments = ["chat", str(bundle), "--image", str(photo), "What is this?", "--greedy"]
    assert main([*arguments, "--max-new-tokens", "6", "--statistics"]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("\n")
    assert "6 tokens in" in captured.err


def test_seed_repeats_the_answer(bundle, capsys):
    arguments = ["chat", str(bundle), "Say something.", "--seed", "3", "--max-new-tokens", "12"]
    answers = []
    for _ in range(2):
        assert main(arguments) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_info_prints_parts_sizes_and_context(bundle, capsys):
    assert main(["info", str(bundle)]) == 0
    printed = capsys.readouterr().out
    for text in ("decoder", "prefill, decode", "context 256 tokens", "all checksums match"):
        assert text in printed


def test_dialogue_reuses_the_cache_and_survives_a_mistake(bundle, monkeypatch, capsys):
    lines = "Hello\n" + "word " * 200 + "\nAgain\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    arguments = ["chat", str(bundle), "--max-new-tokens", "3", "--seed", "0", "--statistics"]
    assert main(arguments) == 0
    errors = capsys.readouterr().err.splitlines()
    assert any(line.startswith("error: the prompt has") for line in errors)
    assert "(/drop forgets the oldest question, /reset all of them)" in errors
    counts = [line for line in errors if "prompt tokens" in line]
    assert len(counts) == 2
    assert "(0 reused)" in counts[0]
    assert "(0 reused)" not in counts[1]


def test_a_dialogue_forgets_what_it_is_told_to(bundle, monkeypatch, capsys):
    """After /reset it answers as at first; after /drop as if the oldest question had not been."""
    monkeypatch.setattr("sys.stdin", io.StringIO("/drop\nOne\n/reset\nTwo\nThree\n/drop\nTwo\n"))
    arguments = ["chat", str(bundle), "--max-new-tokens", "3", "--greedy", "--statistics"]
    assert main([*arguments, "--system", "Be brief."]) == 0
    first = [int(line.split()[0]) for line in capsys.readouterr().err.splitlines()]
    monkeypatch.setattr("sys.stdin", io.StringIO("Two\nThree\n"))
    assert main([*arguments, "--system", "Be brief."]) == 0
    two, three = [int(line.split()[0]) for line in capsys.readouterr().err.splitlines()]
    assert first[1:3] == [two, three] and first[3] < three + two
    assert len(first) == 4


COUNTS = ["--max-new-tokens", "3", "--greedy", "--statistics"]


def prompts(capsys):
    """(prompt tokens, reused ones) of each answer."""
    words = [line.split() for line in capsys.readouterr().err.splitlines() if "reused" in line]
    return [(int(line[0]), int(line[3].strip("("))) for line in words]


def test_a_session_file_is_begun_and_gone_on_with(bundle, photo, monkeypatch, tmp_path, capsys):
    """One question per process, as in one dialogue; the picture is seen once."""
    kept = ["--session", str(tmp_path / "new" / "dialogue")]
    arguments = ["chat", str(bundle), *COUNTS]
    monkeypatch.chdir(photo.parent)
    assert main([*arguments, "--image", photo.name, "One", *kept]) == 0
    monkeypatch.chdir(bundle)
    with monkeypatch.context() as patch:
        patch.setattr("mobile_runtime.model.static_vision.StaticVision.encode_view", None)
        assert main([*arguments, "Two", *kept]) == 0
    apart = prompts(capsys)
    monkeypatch.setattr("sys.stdin", io.StringIO("One\nTwo\n"))
    assert main([*arguments, "--image", str(photo)]) == 0
    assert apart == prompts(capsys)
    assert apart[1][1] > 64


def test_save_and_reset_in_a_dialogue(bundle, monkeypatch, tmp_path, capsys):
    """What was saved is what was there at that time; at the end, the session's file is written."""
    copy, file = tmp_path / "a copy", tmp_path / "dialogue"
    lines = f"/save\nOne\n/save {copy}\n/save\n/saved by the bell\n/reset\nThree\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    arguments = ["chat", str(bundle), "--max-new-tokens", "3", "--greedy", "--system", "Be brief."]
    assert main([*arguments, "--session", str(file)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told == [f"(saved to {file})", f"(saved to {copy})", f"(saved to {file})"]
    session = Session.load(bundle, verify=False)
    for path, question in ((copy, "One"), (file, "Three")):
        messages = session.restore(path)
        assert [message["role"] for message in messages] == ["system", "user", "assistant"]
        assert messages[1]["content"] == [{"type": "text", "text": question}]


def test_save_needs_a_place(bundle, monkeypatch, photo, capsys):
    lines = f"One\n/save\n/save {photo}/below\n/save {photo.parent}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert main(["chat", str(bundle), "--max-new-tokens", "3"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "error: /save needs a file; give /save FILE."
    assert [line.endswith("in a folder that can be written to.") for line in told[1:]] == [True] * 2


def test_an_interrupted_dialogue_is_saved(bundle, monkeypatch, tmp_path, capsys):
    lines = iter(["One", KeyboardInterrupt])

    def read():
        line = next(lines)
        if line is KeyboardInterrupt:
            raise line
        return line

    monkeypatch.setattr("mobile_runtime.cli._read_line", read)
    arguments = ["chat", str(bundle), "--max-new-tokens", "3"]
    assert main([*arguments, "--session", str(tmp_path / "dialogue")]) == 130
    assert len(Session.load(bundle, verify=False).restore(tmp_path / "dialogue")) == 2


def test_another_system_prompt_takes_the_place_of_the_saved_one(
    bundle, monkeypatch, tmp_path, capsys
):
    file, arguments = tmp_path / "dialogue", ["chat", str(bundle), *COUNTS]
    assert main([*arguments, "One", "--system", "Be brief.", "--session", str(file)]) == 0
    assert main([*arguments, "Two", "--system", "Be long.", "--session", str(file)]) == 0
    system, *rest = Session.load(bundle, verify=False).restore(file)
    assert system["content"] == "Be long." and len(rest) == 4


def test_a_mistake_leaves_no_session_file(bundle, tmp_path, capsys):
    file = tmp_path / "dialogue"
    assert main(["chat", str(bundle), "word " * 300, "--system", "X", "--session", str(file)]) == 2
    assert not file.exists()


def test_interrupt_ends_cleanly(bundle, monkeypatch, capsys):
    def interrupt(self, token):
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "_decode", interrupt)
    assert main(["chat", str(bundle), "Hello"]) == 130
    assert "Traceback" not in capsys.readouterr().err


MISTAKES = {
    "no bundle": (["chat", "/absent", "Hi"], "is not a bundle"),
    "text as image": (["chat", "BUNDLE", "--image", __file__, "Hi"], "is not a picture"),
    "no such image": (["chat", "BUNDLE", "--image", "/absent.png", "Hi"], "does not exist"),
    "text as video": (["chat", "BUNDLE", "--video", __file__, "Hi"], "test_cli.py"),
    "bad temperature": (["chat", "BUNDLE", "--temperature", "-1", "Hi"], "temperature is -1"),
    "bad slices": (["chat", "BUNDLE", "--image", "PHOTO", "--max-slice-nums", "0", "Hi"], "0"),
    "bad background, told before a bundle is loaded": (
        ["chat", "/absent", "--image", "PHOTO", "--background", "whitish", "Hi"],
        "The background is 'whitish'",
    ),
    "too long": (["chat", "BUNDLE", "word " * 300], "the context holds 256"),
    "session in a file": (["chat", "BUNDLE", "Hi", "--session", "PHOTO/x"], "cannot be written"),
    "no session": (["chat", "BUNDLE", "Hi", "--session", "PHOTO"], "something else, or was cut"),
    "no info": (["info", "/absent"], "is not a bundle"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(name, bundle, photo, capsys):
    arguments, text = MISTAKES[name]
    places = {"BUNDLE": str(bundle), "PHOTO": str(photo), "PHOTO/x": str(photo / "x")}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert text in errors[0]


@pytest.mark.parametrize("arguments", [[], ["sing"], ["chat"], ["chat", "x", "y", "--top-k", "z"]])
def test_wrong_usage_exits_with_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("backend", "kv_cache", "item_bytes"), [("onnx", "int8", 1), ("onnx", "float32", 4)]
)
def test_info_counts_the_cache_as_it_is_stored(
    make_onnx_bundle, capsys, backend, kv_cache, item_bytes
):
    """Two layers of two kv heads of 64 values, keys and values, 320 positions."""
    assert main(["info", str(make_onnx_bundle(backend, "int4-fast", kv_cache))]) == 0
    megabytes = 2 * 2 * 2 * 64 * 320 * item_bytes / 1e6
    assert f"{megabytes:,.1f} MB of cache" in capsys.readouterr().out


def test_chat_hands_the_engine_its_options(bundle, monkeypatch):
    class StopHere(Exception):
        pass

    def load(path, options):
        raise StopHere(options)

    monkeypatch.setattr(Session, "load", load)
    flags = ["--engine", "coreml", "--compute-units", "CPU_ONLY", "--precision", "fp32"]
    with pytest.raises(StopHere) as caught:
        main(["chat", str(bundle), "Hi", *flags])
    (options,) = caught.value.args
    assert (options.name, options.compute_units) == ("coreml", "CPU_ONLY")
    assert (options.precision, options.prepacked) == ("fp32", None)


def test_a_background_is_that_of_pictures_and_videos(bundle, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "_answer", lambda dialogue, parts, options: asked.append(parts))
    media = ["--image", "a.png", "--video", "b.mov", "--fps", "2", "--background", "#0c8"]
    main(["chat", str(bundle), "Hi", *media])
    assert asked[0][:2] == [
        {"type": "image", "image": "a.png", "background": "#0c8"},
        {"type": "video", "video": "b.mov", "background": "#0c8", "fps": 2},
    ]


def test_chat_takes_limits_of_memory_and_work(make_bundle, capsys):
    bundle = str(make_bundle("int4-fast"))
    asked = ["chat", bundle, "--greedy", "--max-new-tokens", "2", "Hi"]
    assert main([*asked, "--memory", "1", "--work", "2"]) == 0
    capsys.readouterr()
    for flag, value, words in (("--memory", "0.000001", "allow more"), ("--work", "0", "above 0")):
        assert main([*asked, flag, value]) == 2
        assert words in capsys.readouterr().err
