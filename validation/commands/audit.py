"""`python -m validation audit BUNDLE_OR_PACKAGE`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mobile_runtime.command import Terminal, add_limits, limits_of
from mobile_runtime.errors import InputError
from validation.commands.options import check_least, named_chats

if TYPE_CHECKING:
    from validation.chats import NamedChat
    from validation.parity.audit.run import Audit

HELP = "which operation overflows or loses digits in half precision, and what that costs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "target", type=Path, metavar="BUNDLE_OR_PACKAGE", help="a Core ML bundle, or a .mlpackage"
    )
    parser.add_argument(
        "--messages",
        type=Path,
        action="append",
        metavar="FILE",
        help="chat file for a bundle; may be repeated (default: a picture, a video, a text)",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of pictures to look at")
    parser.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE",
        help="npz file with an array for each input of a package",
    )
    parser.add_argument("--function", help="of a package (default: the package's default)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=4, help="tokens that follow each chat (default: 4)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write it as JSON")
    parser.add_argument("--all", action="store_true", help="print every operation")
    add_limits(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0, or 1 if an operation goes wrong in half precision."""
    from mobile_runtime.files import check_place, write_json
    from validation.parity.audit.report import as_json, print_audit

    check_least("--max-new-tokens", options.max_new_tokens, 0)
    if options.json is not None:
        check_place(options.json)
    is_package = options.target.suffix == ".mlpackage"
    audit = _package(options) if is_package else _bundle(options)
    print_audit(audit, Terminal(), options.all)
    if options.json is not None:
        write_json(options.json, as_json(audit))
        print(options.json)
    return int(audit.failed)


def _package(options: argparse.Namespace) -> Audit:
    from mobile_runtime.package.commands import load_array
    from validation.parity.audit.run import audit_package, pictures_in

    if options.messages is not None:
        raise InputError("--messages is for a bundle; give --inputs or --images for a package.")
    if options.inputs is None and options.images is None:
        raise InputError(f"{options.target} needs inputs; give --inputs FILE or --images DIR.")
    arrays = {} if options.inputs is None else load_array(options.inputs)
    if not isinstance(arrays, dict):
        raise InputError(
            f"{options.inputs} holds one array without a name; write it with numpy.savez."
        )
    pictures = [] if options.images is None else pictures_in(options.images)
    return audit_package(options.target, arrays, pictures, options.function, limits_of(options))


def _bundle(options: argparse.Namespace) -> Audit:
    from validation.parity.audit.run import audit_bundle

    if options.inputs is not None or options.function is not None:
        given = "--inputs" if options.inputs is not None else "--function"
        raise InputError(f"{given} is for a package; give --messages or --images for a bundle.")
    chats = [] if options.images is None else _looking_at(options.images)
    if options.messages is not None or not chats:
        chats += named_chats(options.messages)
    return audit_bundle(options.target, chats, options.max_new_tokens)


def _looking_at(folder: Path) -> list[NamedChat]:
    """A question about each picture in a folder."""
    from mobile_runtime.chat.chat_file import Chat
    from mobile_runtime.chat.prompt import PromptOptions
    from validation.chats import NamedChat
    from validation.parity.audit.run import pictures_in

    found = []
    for path in pictures_in(folder):
        image = {"type": "image", "image": path.name}
        content = [image, {"type": "text", "text": "What is in the picture?"}]
        messages = [{"role": "user", "content": content}]
        found.append(NamedChat(path.name, Chat(messages, PromptOptions(), None, folder)))
    return found
