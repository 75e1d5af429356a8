"""Conversations with the default model, recorded in Python to be replayed by the Swift session.

    python -m tests.ios_bridge.conversations FOLDER

How long answers are does not depend on the weights: no token ends an answer, but in the one
conversation that is about that.
"""

import argparse
import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from export.backends import BACKENDS
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle
from mobile_runtime.bundle import read_manifest, write_manifest
from mobile_runtime.session import ChatOptions, Session
from tests.golden.synthetic import golden_picture
from tests.ios_bridge.recording import Conversation, conversation

KV_CACHES = ("state", "io")  # a cache of the packages', and one of the host's


@dataclass(frozen=True)
class Case:
    """A conversation, the kinds of cache it is held with, and whether a token ends its answer."""

    hold: Callable[[Conversation], None]
    kv_caches: tuple[str, ...] = ("state",)
    ends: bool = False


def user(*parts):
    """The user's message of texts, pictures and lists of frames."""
    return {"role": "user", "content": [_part(part) for part in parts]}


def _part(part):
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = "image" if isinstance(part, Image.Image) else "video"
    return {"type": kind, kind: part}


def said(text):
    """The model's message."""
    return {"role": "assistant", "content": text}


def a_picture_with_slices(held):
    held.ask([user(golden_picture(300, 200, 1), "What is it?")], max_new_tokens=8)
    assert held.expected[0]["finish_reason"] == "length"


def later_turns_reuse_the_cache(held):
    picture = golden_picture(120, 150, 2)
    first = [user(picture, "What is it?")]
    options = {"max_new_tokens": 5, "max_slice_nums": 1}
    answer = held.ask(first, question=("What is it?", [picture]), **options)
    second = [*first, said(answer), user("And now?")]
    held.ask(second, question=("And now?", []), **options)
    # The same conversation, told from outside, finds the cache as it was left.
    held.ask([*first, said(answer), user("And then?")], **options)
    assert min(turn["reused_tokens"] for turn in held.expected[1:]) > 16


def frames_of_a_video(held):
    frames = [golden_picture(100, 80, k) for k in range(7)]
    held.ask([user(frames, "What happens?")], max_new_tokens=4)


def draws_with_a_seed(held):
    options = {"temperature": 1.0, "repetition_penalty": 1.1, "seed": 11, "max_new_tokens": 24}
    held.ask([user("Tell me")], **options)


def thinking_opens_the_answer(held):
    held.ask([user("Why?")], enable_thinking=True, max_new_tokens=6)


def the_context_is_full(held):
    context = held.session.manifest.decoding.context_length

    def length(count):
        return len(held.session.prepare([user("ab " * count)]).keys)

    count = 1
    while length(count + 1) < context - 4:
        count += 1
    held.ask([user("ab " * count)], temperature=2.0, seed=3, max_new_tokens=context)
    held.ask([user("ab " * context)])
    assert held.expected[0]["finish_reason"] == "context_full"
    assert held.expected[1]["error"] is not None


def cancelled_midway(held):
    first = [user("Tell me")]
    answer = held.ask(first, question=("Tell me", []), cancel_after=3, max_new_tokens=16)
    held.ask([*first, said(answer), user("Go on")], question=("Go on", []), max_new_tokens=4)
    assert held.expected[0]["finish_reason"] == "cancelled"
    assert held.expected[1]["reused_tokens"] > 0


def the_model_ends_the_answer(held):
    held.ask([user("Why?")], max_new_tokens=24)
    assert held.expected[0]["finish_reason"] == "stop"


CONVERSATIONS = {
    "picture": Case(a_picture_with_slices),
    "turns": Case(later_turns_reuse_the_cache, kv_caches=KV_CACHES),
    "video": Case(frames_of_a_video),
    "draws": Case(draws_with_a_seed),
    "thinking": Case(thinking_opens_the_answer),
    "full": Case(the_context_is_full, kv_caches=KV_CACHES),
    "cancelled": Case(cancelled_midway, kv_caches=KV_CACHES),
    "ended": Case(the_model_ends_the_answer, ends=True),
}
# (conversation, kind of cache)
RECORDINGS = [(name, kind) for name, case in CONVERSATIONS.items() for kind in case.kv_caches]


def export_default(folder, kv_cache):
    """The default model with a short context."""
    config = ExportConfig(output=folder, context_length=512, kv_cache=kv_cache, overwrite=True)
    return export_bundle(config, BACKENDS["coreml"], Progress(quiet=True))


def record(name, exported, folder):
    """Hold a conversation with the bundle `exported`; `folder` gets its bundle and recording.
    Gives the script's path."""
    case = CONVERSATIONS[name]
    bundle = folder / "bundle"
    shutil.copytree(exported, bundle, copy_function=os.link)
    _set_stops(bundle, ())
    if case.ends:
        stream = Session.load(bundle, verify=False).chat(
            [user("Why?")], ChatOptions(max_new_tokens=3)
        )
        list(stream)
        _set_stops(bundle, (stream.token_ids[-1],))
    with conversation(bundle, folder) as held:
        case.hold(held)
        return held.write()


def _set_stops(bundle, tokens):
    manifest = read_manifest(bundle)
    prompt = dataclasses.replace(manifest.prompt, stop_token_ids=tokens)
    (bundle / "manifest.json").unlink()  # it is one file with the exported bundle's
    write_manifest(bundle, dataclasses.replace(manifest, prompt=prompt))


def main():
    """Record all conversations into a new folder, which takes the place of the old one whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    exported = {kind: export_default(partial / "exports" / kind, kind) for kind in KV_CACHES}
    for name, kind in RECORDINGS:
        record(name, exported[kind], partial / f"{name}-{kind}")
    shutil.rmtree(partial / "exports")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    print(f"{len(RECORDINGS)} conversations recorded in {folder}")


if __name__ == "__main__":
    main()
