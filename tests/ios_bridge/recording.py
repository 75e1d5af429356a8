"""Records what a session is asked, what its packages are given and give back, and its answers, for
a session elsewhere to replay.

A recording is a folder: `script.json` (the turns, what Python answered, names of the other files),
the calls of the packages, their values, and the pictures.
"""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mobile_runtime.bundle import read_manifest
from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.errors import InputError
from mobile_runtime.model import static_decoder, static_vision
from mobile_runtime.session import ChatOptions, Session

# The score bias is a float32 matrix product, whose sums the two sides order differently: over 256
# values of at most 8, an order changes less than 256 · 8 · 2⁻²⁴. All other inputs are equal.
TOLERANCE = 256 * 8 * 2.0**-24


class Recorder:
    """Collects calls; `write` puts them into two files."""

    def __init__(self, manifest):
        self._names = {graph.path: graph.name for graph in manifest.graphs}
        self._calls, self._values, self._count = [], [], 0

    @contextmanager
    def listening(self):
        """Let the packages that are opened inside be recorded."""
        modules = (static_vision, static_decoder)
        opened = [module.open_engine for module in modules]
        try:
            for module, original in zip(modules, opened, strict=True):
                module.open_engine = self._opener(original)
            yield self
        finally:
            for module, original in zip(modules, opened, strict=True):
                module.open_engine = original

    def _opener(self, opened):
        return lambda path, options: _Recorded(opened(path, options), self, self._names[path.name])

    def take(self, graph, function, inputs, outputs):
        """Add one call."""
        parts = {"inputs": self._arrays(inputs), "outputs": self._arrays(outputs)}
        self._calls.append({"graph": graph, "function": function, **parts})

    def _arrays(self, arrays):
        described = {}
        for name, array in arrays.items():
            described[name] = {"shape": list(array.shape), "offset": self._count}
            self._values.append(np.array(array, "<f4").ravel())
            self._count += array.size
        return described

    def write(self, calls, values):
        """Write the list of calls and the values."""
        calls.write_text(json.dumps(self._calls))
        np.concatenate(self._values).tofile(values)


class _Recorded:
    def __init__(self, engine, recorder, name):
        self._engine, self._recorder, self._name = engine, recorder, name

    def new_state(self):
        return self._engine.new_state()

    def run(self, inputs, *, function=None, state=None):
        outputs = self._engine.run(inputs, function=function, state=state)
        self._recorder.take(self._name, function, inputs, outputs)
        return outputs


class Conversation:
    """Runs turns in Python and writes them into a folder."""

    def __init__(self, bundle, folder, recorder):
        self._folder, self._recorder = folder, recorder
        self.session = Session.load(bundle, verify=False)
        self._turns, self._pictures = [], 0
        self.expected = []

    def ask(self, messages, *, question=None, cancel_after=None, **options):
        """Answer `messages`; elsewhere, `question` (text and pictures) goes on with its history.
        Once it has `cancel_after` tokens, the answer is cancelled."""
        thinking = options.pop("enable_thinking", False)
        turn = {"enable_thinking": thinking, **options}
        given = ChatOptions(prompt=PromptOptions(enable_thinking=thinking), **options)
        counts = ("prompt_tokens", "reused_tokens", "new_tokens")
        outcome = {"text": None, "error": None, "token_ids": [], "finish_reason": None}
        try:
            stream = self.session.chat(messages, given)
        except InputError as error:
            outcome |= {"error": str(error)} | dict.fromkeys(counts, 0)
        else:
            outcome["text"] = ""
            for piece in stream:
                outcome["text"] += piece
                if cancel_after is not None and len(stream.token_ids) >= cancel_after:
                    stream.cancel()
                    turn.setdefault("cancel_after", len(stream.token_ids))
            outcome |= {"token_ids": stream.token_ids, "finish_reason": stream.finish_reason}
            outcome |= {name: getattr(stream.statistics, name) for name in counts}
        self.expected.append(outcome)
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
        name = f"{self._pictures}.rgb"
        self._pictures += 1
        np.asarray(image).tofile(self._folder / name)
        return {"file": name, "size": list(image.size)}

    def write(self):
        """Write the script, and what it names; gives its path."""
        calls, values = "calls.json", "values.raw"
        self._recorder.write(self._folder / calls, self._folder / values)
        script = {"calls": calls, "values": values, "tolerance": TOLERANCE}
        script |= {"turns": self._turns, "expected": self.expected}
        path = self._folder / "script.json"
        path.write_text(json.dumps(script), encoding="utf-8")
        return path


@contextmanager
def conversation(bundle: Path, folder: Path):
    """A conversation with `bundle` that is recorded in `folder`."""
    recorder = Recorder(read_manifest(bundle))
    with recorder.listening():
        yield Conversation(bundle, folder, recorder)
