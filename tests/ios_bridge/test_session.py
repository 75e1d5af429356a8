"""Whole conversations of the Swift session on packages that the Python session recorded."""

import json

import numpy as np
import pytest
from PIL import Image

from export.backends import BACKENDS
from export.config import ExportConfig
from export.pipeline import export_bundle
from export.progress import Progress
from mobile_runtime.bundle import InputError, read_manifest
from mobile_runtime.prompt import PromptOptions
from mobile_runtime.session import ChatOptions, Session
from tests.golden.synthetic import golden_picture
from tests.ios_bridge.recording import Recorder

# The score bias is a float32 matrix product, whose sums the two sides order differently: over 256
# values of at most 8, an order changes less than 256 · 8 · 2⁻²⁴. All other inputs are equal.
TOLERANCE = 256 * 8 * 2.0**-24


@pytest.fixture(scope="module", params=["state", "io"])
def bundle(request, tmp_path_factory):
    """The default model, with a cache of the package's and with one of the host's."""
    config = ExportConfig(
        output=tmp_path_factory.mktemp("pocket"), context_length=512, kv_cache=request.param
    )
    return export_bundle(config, BACKENDS["coreml"], Progress(quiet=True))


class Conversation:
    """Runs turns in Python, recording them, then the same turns in Swift."""

    def __init__(self, bundle, tmp_path, monkeypatch):
        self._bundle, self._folder = bundle, tmp_path
        self._recorder = Recorder(read_manifest(bundle))
        self._recorder.install(monkeypatch)
        self.session = Session.load(bundle, verify=False)
        self._turns, self.expected = [], []

    def ask(self, messages, *, question=None, **options):
        """Answer `messages`; in Swift, `question` (text and pictures) goes on with its history."""
        thinking = options.pop("enable_thinking", False)
        given = ChatOptions(prompt=PromptOptions(enable_thinking=thinking), **options)
        outcome = {"text": None, "error": None, "token_ids": [], "finish_reason": None}
        try:
            stream = self.session.chat(messages, given)
            outcome["text"] = "".join(stream)
            outcome |= {"token_ids": stream.token_ids, "finish_reason": stream.finish_reason}
            statistics = stream.statistics
            outcome |= {
                name: getattr(statistics, name)
                for name in ("prompt_tokens", "reused_tokens", "new_tokens")
            }
        except InputError as error:
            outcome["error"] = str(error)
            outcome |= {"prompt_tokens": 0, "reused_tokens": 0, "new_tokens": 0}
        self.expected.append(outcome)
        turn = {"enable_thinking": thinking, **options}
        if question is None:
            turn["messages"] = [self._message(message) for message in messages]
        else:
            text, images = question
            turn |= {"question": text, "images": [self._picture(image) for image in images]}
        self._turns.append(turn)
        return outcome["text"]

    def _message(self, message):
        parts = message["content"]
        if isinstance(parts, str):
            parts = [{"type": "text", "text": parts}]
        return {"role": message["role"], "parts": [self._part(part) for part in parts]}

    def _part(self, part):
        if part["type"] == "text":
            return {"text": part["text"]}
        if part["type"] == "image":
            return {"image": self._picture(part["image"])}
        return {"frames": [self._picture(frame) for frame in part["video"]]}

    def _picture(self, image):
        path = self._folder / f"{len(list(self._folder.iterdir()))}.rgb"
        np.asarray(image).tofile(path)
        return {"file": str(path), "size": list(image.size)}

    def replay(self, minicpmv):
        """What Swift answers, and what the recording says at the end."""
        calls, values = self._folder / "calls.json", self._folder / "values.raw"
        self._recorder.write(calls, values)
        script = {"calls": str(calls), "values": str(values), "turns": self._turns}
        (self._folder / "script.json").write_text(json.dumps(script | {"tolerance": TOLERANCE}))
        shown = minicpmv("replay", self._bundle, self._folder / "script.json").splitlines()
        *turns, end = (json.loads(line) for line in shown)
        absent = {"text": None, "error": None, "finish_reason": None}
        return [absent | turn for turn in turns], end


def user(*parts):
    return {"role": "user", "content": [_part(part) for part in parts]}


def _part(part):
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image" if isinstance(part, Image.Image) else "video"} | (
        {"image": part} if isinstance(part, Image.Image) else {"video": part}
    )


@pytest.fixture
def conversation(bundle, tmp_path, monkeypatch):
    """A conversation that has not begun."""
    return Conversation(bundle, tmp_path, monkeypatch)


def check(conversation, minicpmv):
    turns, end = conversation.replay(minicpmv)
    assert turns == conversation.expected
    assert end["remaining_calls"] == 0
    print({name: value for name, value in end["differences"].items() if value})
    assert {name for name, value in end["differences"].items() if value} <= {"resampler.score_bias"}


def test_a_picture_is_described_with_the_same_text(conversation, minicpmv):
    conversation.ask([user(golden_picture(300, 200, 1), "What is it?")], max_new_tokens=24)
    check(conversation, minicpmv)


def test_a_second_turn_reuses_what_the_first_computed(conversation, minicpmv):
    picture = golden_picture(120, 150, 2)
    first = [user(picture, "What is it?")]
    options = {"max_new_tokens": 8, "max_slice_nums": 1}
    answer = conversation.ask(first, question=("What is it?", [picture]), **options)
    second = [*first, {"role": "assistant", "content": answer}, user("And now?")]
    conversation.ask(second, question=("And now?", []), **options)
    assert conversation.expected[1]["reused_tokens"] > 16
    # The same conversation, told from outside, finds the cache as it was left.
    third = [*first, {"role": "assistant", "content": answer}, user("And then?")]
    conversation.ask(third, **options)
    check(conversation, minicpmv)


def test_frames_of_a_video_are_packed(conversation, minicpmv):
    frames = [golden_picture(100, 80, k) for k in range(3)]
    conversation.ask([user(frames, "What happens?")], max_new_tokens=8)
    check(conversation, minicpmv)


def test_draws_with_a_seed_are_equal(conversation, minicpmv):
    options = {"temperature": 1.0, "repetition_penalty": 1.1, "seed": 11, "max_new_tokens": 40}
    conversation.ask([user("Tell me")], **options)
    check(conversation, minicpmv)


def test_thinking_opens_the_answer(conversation, minicpmv):
    conversation.ask([user("Why?")], enable_thinking=True, max_new_tokens=6)
    check(conversation, minicpmv)


def test_a_conversation_that_fills_the_context_ends(conversation, minicpmv):
    context = conversation.session.manifest.decoding.context_length
    words = "abcd " * (context // 8)
    options = {"temperature": 2.0, "seed": 3, "max_new_tokens": context}
    conversation.ask([user(words)], **options)
    conversation.ask([user("ab " * context)], **options)
    assert conversation.expected[1]["error"] is not None
    check(conversation, minicpmv)
