"""`python -m mobile_runtime chat|serve|demo|info|ort BUNDLE`, `describe|run PACKAGE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobile_runtime.bundle import read_manifest, verify_files
from mobile_runtime.chat.messages import read_turns
from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.chat.stream import ChatStream
from mobile_runtime.command import (
    BUNDLE_HELP,
    INTERRUPTED,
    Terminal,
    add_engine,
    engine_options,
    fetch_bundles,
    printable,
    run_command,
)
from mobile_runtime.errors import InputError
from mobile_runtime.files import check_place, load_json
from mobile_runtime.model.formats import format_of, require_engine
from mobile_runtime.model.info import print_bundle
from mobile_runtime.package import commands as package
from mobile_runtime.sampling.structured.schema import compile_schema
from mobile_runtime.serve import commands as serve
from mobile_runtime.session import ChatOptions, Session


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 2 for a user's mistake, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m mobile_runtime",
        description="Talk to a bundle, or run any Core ML package.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(
            ["commands:", *(f"  {name:<8} {text}" for name, (text, _, _) in _COMMANDS.items())]
        ),
    )
    parser.add_argument("command", choices=_COMMANDS, help="add -h after it for its own options")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    text, build, run = _COMMANDS[chosen.command]
    own = argparse.ArgumentParser(prog=f"{parser.prog} {chosen.command}", description=text)
    build(own)
    # Intermixed: the question may stand before or after the options.
    options = own.parse_intermixed_args(chosen.arguments)

    def fetch_and_run() -> int:
        fetch_bundles(options)
        return run(options)

    return run_command(fetch_and_run)


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help=BUNDLE_HELP)


def _add_ort(parser: argparse.ArgumentParser) -> None:
    _add_bundle(parser)
    parser.add_argument("output", type=Path, help="new folder")


def _add_media(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", action="append", default=[], help="may be repeated")
    parser.add_argument("--video", action="append", default=[], help="may be repeated")
    parser.add_argument("--fps", type=int, help="frames that are read of a second of video")
    parser.add_argument("--max-frames", type=int, help="most frames that are read of a video")
    parser.add_argument(
        "--packing",
        type=int,
        help="frames that share the tokens of one, up to 6; without these three, as many frames as "
        "the published chat() reads, or as fit the context",
    )
    parser.add_argument(
        "--background",
        metavar="COLOUR",
        help="what shows through transparent pictures and videos: a colour's name or #rrggbb, or "
        "none to leave transparency out as the published chat() does (default: white)",
    )


def _add_chat(parser: argparse.ArgumentParser) -> None:
    _add_bundle(parser)
    parser.add_argument(
        "question",
        nargs="?",
        help="leave it out for a dialogue, in which /drop forgets the oldest question and its "
        "answer, /reset all of them, and /save [FILE] saves the dialogue",
    )
    parser.add_argument(
        "--session",
        type=Path,
        metavar="FILE",
        help="go on with the dialogue that is saved there, if there is one, without computing it "
        "again, and save it there at the end",
    )
    _add_media(parser)
    parser.add_argument("--system", help="system prompt")
    parser.add_argument("--thinking", action="store_true", help="let the model think first")
    parser.add_argument("--max-slice-nums", type=int, help="most slices per picture")
    parser.add_argument(
        "--schema",
        type=Path,
        metavar="FILE",
        help="JSON Schema that the answers fit; thoughts before them are free",
    )
    _add_sampling(parser)
    add_engine(parser)
    parser.add_argument(
        "--speculate",
        action="store_true",
        help="run guessed tokens where the model copies what it read: greedy answers come faster",
    )
    parser.add_argument("--statistics", action="store_true", help="print times and counts")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--greedy", action="store_true", help="always the best token, without penalty"
    )
    for name, kind in (
        ("temperature", float),
        ("top-k", int),
        ("top-p", float),
        ("repetition-penalty", float),
        ("seed", int),
        ("max-new-tokens", int),
    ):
        parser.add_argument(f"--{name}", type=kind, help="default: as the published chat()")


def _chat(options: argparse.Namespace) -> int:
    parts = _parts(options)
    if options.schema is not None:
        options.schema = load_json(options.schema, "give a JSON Schema")
        compile_schema(options.schema)  # before a model is loaded
    if options.session is not None:
        check_place(options.session)
    session = Session.load(options.bundle, engine_options(options))
    session.speculate = options.speculate
    dialogue = _Dialogue(session, options.session, options.system)
    with dialogue.saved_at_the_end():
        return _talk(dialogue, parts, options)


def _talk(dialogue: _Dialogue, parts: list[dict[str, Any]], options: argparse.Namespace) -> int:
    if options.question is not None:
        return _answer(dialogue, [*parts, _text(options.question)], options)
    while (question := _read_line()) is not None:
        if question in _FORGET:
            _FORGET[question](dialogue.messages)
        elif question.split(maxsplit=1)[:1] == [_SAVE]:
            _save(dialogue, question.removeprefix(_SAVE).strip())
        elif question and _answer_turn(dialogue, [*parts, _text(question)], options):
            parts = []
    return 0


def _parts(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Pictures and videos for the first question. What is wrong in them is told before a model is
    loaded."""
    given = {key: value for key, value in vars(options).items() if value is not None}
    shown, sampling = (
        {key: given[key] for key in keys if key in given}
        for keys in (("background",), ("fps", "max_frames", "packing"))
    )
    parts = [{"type": "image", "image": path, **shown} for path in options.image]
    parts += [{"type": "video", "video": path, **shown, **sampling} for path in options.video]
    if parts:
        read_turns([{"role": "user", "content": parts}])
    return parts


class _Dialogue:
    """A session with the messages of its conversation, and the file that they are kept in. A
    system prompt takes the place of one in the file."""

    def __init__(self, session: Session, file: Path | None, system: str | None) -> None:
        self.session, self.file = session, file
        self.messages: list[dict[str, Any]] = []
        if file is not None and file.exists():
            self.messages = session.restore(file)
            asked = sum(message["role"] == "user" for message in self.messages)
            print(f"({_name(file)} has {asked} question{'s' * (asked != 1)})", file=sys.stderr)
        if system:
            first = _first_turn(self.messages)
            self.messages[:first] = [{"role": "system", "content": system}]
        self._saved = list(self.messages)

    def save(self, file: Path) -> None:
        """Save the session with its messages."""
        self.session.save(file, self.messages)
        if file == self.file:
            self._saved = list(self.messages)

    @contextmanager
    def saved_at_the_end(self) -> Iterator[None]:
        """Save the dialogue if it changed, however it ends."""
        try:
            yield
        finally:
            if self.file is not None and self.messages != self._saved:
                self.save(self.file)


def _save(dialogue: _Dialogue, name: str) -> None:
    """Save a dialogue that goes on, to the file `name` or to the one that it is kept in."""
    file = Path(name) if name else dialogue.file
    if file is None:
        print(f"error: {_SAVE} needs a file; give {_SAVE} FILE.", file=sys.stderr)
        return
    try:
        check_place(file)
        dialogue.save(file)
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
    else:
        print(f"(saved to {_name(file)})", file=sys.stderr)


def _name(file: Path) -> str:
    return printable(str(file))


def _forget_all(messages: list[dict[str, Any]]) -> None:
    """What is left is the system prompt, if there is one."""
    del messages[_first_turn(messages) :]


def _forget_oldest(messages: list[dict[str, Any]]) -> None:
    """The oldest question and its answer go, with their pictures."""
    first = _first_turn(messages)
    del messages[first : first + 2]


def _first_turn(messages: list[dict[str, Any]]) -> int:
    return 1 if messages and messages[0]["role"] == "system" else 0


# Instead of a question in a dialogue.
_SAVE = "/save"
_FORGET = {"/reset": _forget_all, "/drop": _forget_oldest}


def _answer_turn(
    dialogue: _Dialogue, parts: list[dict[str, Any]], options: argparse.Namespace
) -> bool:
    """Run one turn of a dialogue. If its input is wrong, print the error and drop the turn."""
    try:
        _answer(dialogue, parts, options)
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        if len(dialogue.messages) > _first_turn(dialogue.messages):
            print("(/drop forgets the oldest question, /reset all of them)", file=sys.stderr)
        return False
    return True


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _read_line() -> str | None:
    """Return the next question, None at the end of the input, or if there is none."""
    if sys.stdin is None:
        return None
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


def _answer(dialogue: _Dialogue, parts: list[dict[str, Any]], options: argparse.Namespace) -> int:
    question = {"role": "user", "content": parts}
    stream = dialogue.session.chat([*dialogue.messages, question], _chat_options(options))
    # A file or a program gets the answer as it is.
    show = printable if sys.stdout is not None and sys.stdout.isatty() else str
    answer, code = "", 0
    try:
        for piece in stream:
            answer += piece
            print(show(piece), end="", flush=True)
    except KeyboardInterrupt:
        stream.cancel()
        print("\ninterrupted", file=sys.stderr)
        if options.question is not None:
            code = INTERRUPTED
    print()
    dialogue.messages += [question, {"role": "assistant", "content": answer}]
    _report(stream, options)
    return code


def _chat_options(options: argparse.Namespace) -> ChatOptions:
    return ChatOptions(
        prompt=PromptOptions(enable_thinking=options.thinking),
        max_slice_nums=options.max_slice_nums,
        temperature=0.0 if options.greedy else options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=1.0 if options.greedy else options.repetition_penalty,
        seed=options.seed,
        max_new_tokens=options.max_new_tokens,
        schema=options.schema,
    )


def _report(stream: ChatStream, options: argparse.Namespace) -> None:
    if frames := stream.statistics.video_frames:
        print(f"({frames} frame{'s' * (frames > 1)} of video read)", file=sys.stderr)
    if stream.finish_reason == "context_full":
        print("(the context is full: the answer was cut)", file=sys.stderr)
    if stream.finish_reason == "length" and options.schema is not None:
        print("(max-new-tokens was reached: the answer was ended early)", file=sys.stderr)
    if options.statistics:
        counts = stream.statistics
        print(
            f"{counts.prompt_tokens} prompt tokens ({counts.reused_tokens} reused), "
            f"vision {counts.vision_seconds:.2f} s, prefill {counts.prefill_seconds:.2f} s, "
            f"{counts.new_tokens} tokens in {counts.decode_seconds:.2f} s"
            + f", {counts.accepted_tokens} of {counts.drafted_tokens} guesses right"
            * (counts.drafted_tokens > 0),
            file=sys.stderr,
        )


def _info(options: argparse.Namespace) -> int:
    if (options.bundle / "Manifest.json").is_file():
        raise InputError(
            f"{options.bundle} is a Core ML package, not a bundle; "
            f"python -m mobile_runtime describe tells what it holds."
        )
    manifest = read_manifest(options.bundle)
    format_of(manifest)
    verify_files(options.bundle, manifest)
    print_bundle(manifest, Terminal())
    return 0


def _ort(options: argparse.Namespace) -> int:
    from mobile_runtime.engines.onnx.ort_files import write_ort_files

    manifest = read_manifest(options.bundle)
    require_engine(options.bundle, manifest, "onnx", "only ONNX graphs become .ort files")
    verify_files(options.bundle, manifest)
    for path in write_ort_files(options.bundle, manifest, options.output):
        print(path)
    return 0


# Name -> what the command does, the function that adds its arguments, the one that runs it.
_COMMANDS: Mapping[
    str,
    tuple[
        str,
        Callable[[argparse.ArgumentParser], None],
        Callable[[argparse.Namespace], int],
    ],
] = {
    "chat": ("ask about pictures and videos, or hold a dialogue", _add_chat, _chat),
    "serve": (serve.SERVE, serve.add_serve, serve.serve),
    "demo": (serve.DEMO, serve.add_demo, serve.demo),
    "info": ("tell what a bundle holds and needs", _add_bundle, _info),
    "ort": (
        "write ONNX graphs as .ort files, for a reduced build of onnxruntime",
        _add_ort,
        _ort,
    ),
    "describe": (package.DESCRIBE, package.add_describe, package.describe),
    "run": (package.RUN, package.add_run, package.run),
}
