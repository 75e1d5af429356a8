"""Sessions saved to a file and taken up again: nothing is computed twice, nothing is trusted."""

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mobile_runtime.chat import history
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.model import session_file, tensor_file
from mobile_runtime.session import ChatOptions, Session
from tests.mobile_runtime.turns import gradient, user
from tests.paths import ROOT
from tests.processes import run_python

OPTIONS = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=6)
SHOWN = user(gradient(200, 300), "One?")


@pytest.fixture(scope="module")
def bundles(make_bundle, make_onnx_bundle):
    bundles = {kind: make_bundle("none", kind, 256) for kind in ("state", "io")}
    bundles["float32"] = make_onnx_bundle("onnx", "none")
    bundles["int8"] = make_onnx_bundle("onnx", "int4-fast", "int8")
    return bundles


@pytest.fixture(scope="module")
def sessions(bundles):
    """A model of each form of the cache, as it is opened by default."""
    return {kind: Session.load(bundle) for kind, bundle in bundles.items()}


@pytest.fixture(params=["state", "io", "float32", "int8"])
def session(request, sessions):
    sessions[request.param].reset()
    return sessions[request.param]


@pytest.fixture
def bundle(session, sessions, bundles):
    return next(bundles[kind] for kind, one in sessions.items() if one is session)


def answer(session, *messages):
    stream = session.chat(messages, OPTIONS)
    text = "".join(stream)
    return text, stream


def dialogue(session):
    """Two messages that the session has answered."""
    text, _ = answer(session, SHOWN)
    return [SHOWN, {"role": "assistant", "content": text}]


RESUME = """
import sys
from pathlib import Path
import numpy as np
from mobile_runtime.session import Session
from mobile_runtime.session import ChatOptions

session = Session.load(Path(sys.argv[1]), verify=False)
messages = session.restore(Path(sys.argv[2]))
session.model.vision.encode_view = None  # calling it would fail
run, rows = type(session.model.decoder).next_logits, []
def count(self, embeddings, position):
    rows.append(len(embeddings))
    return run(self, embeddings, position)
type(session.model.decoder).next_logits = count
messages.append({"role": "user", "content": [{"type": "text", "text": "Two?"}]})
options = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=6)
prompt = session.prepare(messages, options)
np.save(sys.argv[3], session.prefill(prompt))
print(len(prompt.keys), *rows)
stream = session.chat(messages, options)
list(stream)
print(*stream.token_ids)
"""


def test_a_new_process_goes_on_with_the_same_logits(session, bundle, tmp_path):
    told = dialogue(session)
    session.save(tmp_path / "saved", told)
    question = [*told, user("Two?")]
    prompt = session.prepare(question, OPTIONS)
    kept = session.shared_length(prompt.keys)
    logits = session.prefill(prompt)
    _, expected = answer(session, *question)
    arguments = [bundle, tmp_path / "saved", tmp_path / "logits.npy"]
    done = run_python("-c", RESUME, *arguments, timeout=120)
    assert done.returncode == 0, done.stderr
    counts, tokens = ([int(word) for word in line.split()] for line in done.stdout.splitlines())
    assert counts == [len(prompt.keys), len(prompt.keys) - kept]
    assert kept > session.manifest.preprocessing.num_queries
    assert tokens == expected.token_ids
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), logits)


def test_restoring_goes_back_to_what_was_saved(session, tmp_path, monkeypatch):
    told = dialogue(session)
    session.save(tmp_path / "saved")
    expected, _ = answer(session, *told, user("Two?"))
    answer(session, user("Something else altogether?"))
    assert session.restore(tmp_path / "saved") == []
    monkeypatch.setattr(session.model.vision, "encode_view", None)
    text, stream = answer(session, *told, user("Two?"))
    assert text == expected
    assert stream.statistics.reused_tokens > 64


def test_pictures_embeddings_serve_another_question_about_them(session, tmp_path, monkeypatch):
    """The prompt differs before the picture: its rows are run again, the encoder is not."""
    dialogue(session)
    session.save(tmp_path / "saved")
    other = user("First of all:", gradient(200, 300), "What?")
    expected, _ = answer(session, other)
    session.reset()
    session.restore(tmp_path / "saved")
    monkeypatch.setattr(session.model.vision, "encode_view", None)
    assert answer(session, other)[0] == expected


def test_an_empty_session_is_saved_too(session, tmp_path):
    expected, _ = answer(session, user("A?"))
    session.reset()
    session.save(tmp_path / "saved")
    session.restore(tmp_path / "saved")
    assert answer(session, user("A?"))[0] == expected


def test_a_stream_does_not_go_on_in_a_restored_session(session, tmp_path):
    session.save(tmp_path / "saved")
    stream = iter(session.chat([user("A?")], OPTIONS))
    next(stream)
    session.restore(tmp_path / "saved")
    with pytest.raises(InputError, match="asked something else"):
        list(stream)


def test_saving_in_the_midst_of_an_answer_harms_nothing(session, tmp_path):
    expected, _ = answer(session, SHOWN)
    stream = iter(session.chat([SHOWN], OPTIONS))
    begun = next(stream)
    session.save(tmp_path / "saved")
    with pytest.raises(InputError, match="does not exist"):
        session.restore(tmp_path / "absent")
    assert begun + "".join(stream) == expected
    session.restore(tmp_path / "saved")
    assert answer(session, SHOWN)[0] == expected


def test_messages_come_back_with_the_same_pictures(sessions, tmp_path):
    session = sessions["float32"]
    gradient(60, 40).save(tmp_path / "photo.png")
    parts = [
        {"type": "image", "image": gradient(30, 20)},
        {"type": "image", "path": "photo.png"},
        {"type": "video", "video": [gradient(20, 20)]},
        {"type": "text", "text": "photo.png"},
    ]
    told = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."},
        {"role": "user", "content": "Why?"},
    ]
    session.save(tmp_path / "elsewhere" / "saved", told, tmp_path)
    found = session.restore(tmp_path / "elsewhere" / "saved")
    expected, got = session.prepare(told, OPTIONS, tmp_path), session.prepare(found, OPTIONS)
    assert got.keys == expected.keys
    assert found[1]["content"][3] == parts[3] and found[2:] == told[2:]


def test_messages_that_are_not_valid_or_too_large_are_not_saved(sessions, tmp_path, monkeypatch):
    session, path = sessions["float32"], tmp_path / "saved"
    with pytest.raises(InputError, match="the roles are"):
        session.save(path, [{"role": "cook", "content": "Hi"}])
    monkeypatch.setattr(history, "MAX_BYTES", 300)
    with pytest.raises(InputError, match="give pictures as paths"):
        session.save(path, [user(gradient(300, 200))])
    assert list(tmp_path.iterdir()) == []


def test_another_bundle_or_precision_is_refused(sessions, bundles, tmp_path):
    answer(sessions["state"], user("A?"))
    sessions["state"].save(tmp_path / "saved")
    with pytest.raises(InputError, match="was saved with another bundle"):
        sessions["io"].restore(tmp_path / "saved")
    exact = Session.load(bundles["state"], EngineOptions(precision="fp32"), verify=False)
    with pytest.raises(InputError, match=r"was saved in the precision fp16.*has fp32"):
        exact.restore(tmp_path / "saved")


def test_half_precision_is_kept_in_half_the_bytes(sessions, bundles, tmp_path):
    """float16 values of a Core ML cache, as the Neural Engine computes them; without rounding, 4
    bytes. Two layers of two kv heads of 64 values, keys and values."""
    exact = Session.load(bundles["state"], EngineOptions(precision="fp32"), verify=False)
    message, sizes = user("word " * 40), []
    for session in (sessions["state"], exact):
        session.reset()
        session.prefill(session.prepare([message], OPTIONS))
        session.save(tmp_path / "saved")
        values = 2 * 2 * 2 * 64 * len(session._cached)
        sizes.append((tmp_path / "saved").stat().st_size / values)
    assert 2 < sizes[0] < 2.1 and 4 < sizes[1] < 4.1


# What a file may claim that has the right digest: a change to its arrays or facts -> the error.
def changed(name, edit):
    return lambda arrays, facts: (arrays | {name: edit(arrays[name])}, facts)


def put(array, index, value):
    array = array.copy()
    array[index] = value
    return array


CACHE = "cache.past_key_values.0.key"
HOSTILE = {
    "no version": (lambda a, f: (a, f | {"version": "2"}), "another version"),
    "another bundle": (lambda a, f: (a, f | {"bundle": "0" * 64}), "another bundle"),
    "long precision": (lambda a, f: (a, f | {"precision": "x" * 9999}), "in the precision"),
    "no keys": (lambda a, f: ({n: v for n, v in a.items() if n != "keys"}, f), "or lacks some"),
    "extra": (lambda a, f: (a | {"weights": a["keys"]}, f), "no session has"),
    "flat keys": (changed("keys", np.ravel), "up to 320 × 2 as the bundle needs"),
    "float keys": (changed("keys", lambda k: k.astype(np.float32)), "as the bundle needs"),
    "too many keys": (changed("keys", lambda k: np.tile(k, (9, 1))), "up to 320 × 2"),
    "fewer keys": (changed("keys", lambda k: k[:-1]), "as the bundle needs"),
    "token beyond": (changed("keys", lambda k: put(k, (0, 1), 2**30)), "does not have"),
    "negative token": (changed("keys", lambda k: put(k, (0, 1), -1)), "does not have"),
    "group beyond": (changed("keys", lambda k: put(k, (0, 0), 1)), "does not have"),
    "negative group": (changed("keys", lambda k: put(k, (0, 0), -2)), "does not have"),
    "row beyond": (changed("keys", lambda k: put(k, k[:, 0] == 0, (0, 64))), "does not have"),
    "no group": (changed("groups", lambda g: g[:0]), "does not have"),
    "short digest": (changed("groups", lambda g: g[:, :31]), "as the bundle needs"),
    "short cache": (changed(CACHE, lambda c: c[:, :, :-1]), "as the bundle needs"),
    "other heads": (changed(CACHE, lambda c: c[:, :1]), "as the bundle needs"),
    "integer cache": (changed(CACHE, lambda c: c.astype(np.int32)), "as the bundle needs"),
    "nan": (changed(CACHE, lambda c: put(c, (0, 0, 0, 0), np.nan)), "not finite"),
    "infinity": (changed(CACHE, lambda c: put(c, (0, 0, 0, 0), -np.inf)), "not finite"),
    "one layer": (lambda a, f: ({n: v for n, v in a.items() if n != CACHE}, f), "another cache"),
    "odd name": (lambda a, f: (a | {"image_embeds.xyz": a["keys"]}, f), "a picture wrongly"),
    "no json": (changed("messages", lambda m: m[:-1]), "messages that are not valid"),
    "no list": (changed("messages", lambda m: np.frombuffer(b"5", np.uint8)), "not valid"),
    "deep": (changed("messages", lambda m: np.full(10**5, ord("["), np.uint8)), "not valid"),
    "bad role": (
        changed("messages", lambda m: np.frombuffer(b'[{"role":"x","content":""}]', np.uint8)),
        "messages that are not valid",
    ),
    "no text": (changed("messages", lambda m: np.full(9, 0xFF, np.uint8)), "not valid"),
}


@pytest.fixture(scope="module")
def parts(sessions, tmp_path_factory):
    """Arguments with which a good file is written."""
    session, written = sessions["float32"], {}
    session.reset()
    told = dialogue(session)
    with pytest.MonkeyPatch.context() as patch:
        keep = lambda path, arrays, facts: written.update(arrays=arrays, facts=facts)  # noqa: E731
        patch.setattr(session_file, "write_tensors", keep)
        session.save(tmp_path_factory.mktemp("parts") / "saved", told)
    return {name: array.copy() for name, array in written["arrays"].items()}, written["facts"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_does_not_fit_the_bundle_is_refused(name, parts, sessions, tmp_path):
    session, (edit, said) = sessions["float32"], HOSTILE[name]
    session.reset()
    expected = answer(session, SHOWN)[1].token_ids
    tensor_file.write_tensors(tmp_path / "saved", *edit(*parts))
    with pytest.raises(InputError, match=said) as caught:
        session.restore(tmp_path / "saved")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    _, stream = answer(session, SHOWN)
    assert stream.token_ids == expected, "nothing has changed"
    assert stream.statistics.reused_tokens == stream.statistics.prompt_tokens - 1


def test_a_picture_of_another_size_is_refused(parts, sessions, tmp_path):
    arrays, facts = parts
    (name,) = (name for name in arrays if name.startswith("image_embeds."))
    for wrong in (arrays[name][:-1], arrays[name][:, :-1], arrays[name] * np.inf):
        tensor_file.write_tensors(tmp_path / "saved", arrays | {name: wrong}, facts)
        with pytest.raises(InputError, match=r"as the bundle needs|not finite"):
            sessions["float32"].restore(tmp_path / "saved")


def test_the_unchanged_parts_are_taken(parts, sessions, tmp_path):
    tensor_file.write_tensors(tmp_path / "saved", *parts)
    assert len(sessions["float32"].restore(tmp_path / "saved")) == 2


@pytest.mark.parametrize("kind", ["flipped", "cut", "length", "text", "empty"])
def test_a_damaged_file_is_refused_with_one_sentence(kind, parts, sessions, tmp_path):
    path = tmp_path / "saved"
    tensor_file.write_tensors(path, *parts)
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "cut": data[:middle],
            "length": struct.pack("<Q", 2**60) + data[8:],
            "text": b"Dear diary,\n" * 40,
            "empty": b"",
        }[kind]
    )
    with pytest.raises(InputError, match=str(path)) as caught:
        sessions["float32"].restore(path)
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_one_sentence(sessions, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InputError, match="cannot be written"):
        sessions["float32"].save(tmp_path / "file" / "saved")


KILLED = """
import hashlib, sys, time
from pathlib import Path
from mobile_runtime.model import tensor_file
import numpy as np

class Slow:
    def __init__(self, data=b""):
        self._digest = hashlib._sha256(data)
    def update(self, data):
        print("writing", flush=True)
        time.sleep(60)
hashlib._sha256, hashlib.sha256 = hashlib.sha256, Slow
tensor_file.write_tensors(Path(sys.argv[1]), {"x": np.ones((1000, 1000), np.float32)}, {})
"""


def test_killed_in_the_midst_of_saving_leaves_the_old_file(parts, sessions, tmp_path):
    path = tmp_path / "saved"
    tensor_file.write_tensors(path, *parts)
    old = path.read_bytes()
    command = [sys.executable, "-c", KILLED, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_bytes() == old
    sessions["float32"].restore(path)
    tensor_file.write_tensors(path, *parts)
    assert [one.name for one in tmp_path.iterdir()] == ["saved"], "the next one cleans up"


def test_a_save_that_fails_leaves_the_old_file(parts, tmp_path, monkeypatch):
    arrays, facts = parts
    path = Path(tmp_path / "saved")
    tensor_file.write_tensors(path, arrays, facts)
    old, ascontiguousarray = path.read_bytes(), np.ascontiguousarray

    def fail(array, dtype):
        if array is arrays[CACHE]:
            raise OSError(28, "No space left on device")
        return ascontiguousarray(array, dtype)

    monkeypatch.setattr(np, "ascontiguousarray", fail)
    with pytest.raises(OSError, match="No space"):
        tensor_file.write_tensors(path, arrays, facts)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
