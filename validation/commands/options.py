"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mobile_runtime.command import BUNDLE_HELP
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError

if TYPE_CHECKING:
    from validation.chats import NamedChat

PRECISIONS = ("fp32", "fp16")
PRECISION_HELP = (
    "of the interpreter and of onnxruntime: fp16 computes as the device does, fp32 keeps "
    "activations in float32"
)


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the argument `bundle`."""
    parser.add_argument("bundle", type=Path, help=BUNDLE_HELP)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the options `--checkpoint` and `--adapter`."""
    parser.add_argument(
        "--checkpoint", help="folder or hub id it was made from (not needed for the pocket model)"
    )
    add_adapter(parser)


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """Add the option `--adapter`."""
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="FOLDER[=WEIGHT]",
        help="an adapter that the export merged into the checkpoint; may be repeated",
    )


def check_checkpoint(options: argparse.Namespace) -> None:
    """Raises `InputError` if `--checkpoint` is neither a folder nor a hub id: before PyTorch, which
    takes long and may be absent, is imported."""
    if getattr(options, "checkpoint", None) is not None:
        from export.checkpoint.locate import local_checkpoint

        local_checkpoint(options.checkpoint)


def checkpoint_of(options: argparse.Namespace) -> str | None:
    """What `--checkpoint` says, or a folder that stands for it with all of `--adapter` merged."""
    given: str | None = options.checkpoint
    if not options.adapter:
        return given
    from export.checkpoint.adapters import ADAPTED, parse_adapter, write_adapted_folder
    from export.checkpoint.locate import locate_checkpoint
    from export.config import ExportConfig

    adapters = [parse_adapter(one) for one in options.adapter]
    cache = ExportConfig().cache
    folder = locate_checkpoint(given, cache=cache)
    return str(write_adapted_folder(folder, adapters, cache / ADAPTED))


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add the option `--precision`, fp32 by default."""
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help=PRECISION_HELP)


def engine_options(options: argparse.Namespace) -> EngineOptions:
    """Return the options that `--engine`, `--device` and `--precision` ask for."""
    return EngineOptions(name=options.engine, precision=options.precision, device=options.device)


def check_least(name: str, given: int | None, least: int) -> None:
    """Raises `InputError` if `given` is below `least`."""
    if given is not None and given < least:
        raise InputError(f"{name} is {given}; give {least} or more.")


def named_chats(paths: Sequence[Path] | None) -> list[NamedChat]:
    """Return the chats of the files, named after them; without files, the default chats."""
    from mobile_runtime.chat.chat_file import read_chat
    from validation.chats import NamedChat, default_chats

    return [NamedChat(path.stem, read_chat(path)) for path in paths or ()] or default_chats()
