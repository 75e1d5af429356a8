"""Is a bundle the model? `run_parity` compares each stage of a saved bundle with PyTorch.

A name is imported when it is first used: `import validation` itself loads nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobile_runtime.chat.chat_file import read_chat
    from mobile_runtime.errors import InputError
    from validation.chats import NamedChat, default_chats
    from validation.parity.parity import ParityOptions, run_parity
    from validation.parity.report import ParityReport
    from validation.sources import open_checkpoint

__all__ = [
    "InputError",
    "NamedChat",
    "ParityOptions",
    "ParityReport",
    "default_chats",
    "open_checkpoint",
    "read_chat",
    "run_parity",
]
_HOMES = {
    "InputError": "mobile_runtime.errors",
    "ParityReport": "validation.parity.report",
    "open_checkpoint": "validation.sources",
    **dict.fromkeys(("NamedChat", "default_chats"), "validation.chats"),
    "read_chat": "mobile_runtime.chat.chat_file",
    **dict.fromkeys(("ParityOptions", "run_parity"), "validation.parity.parity"),
}

if not TYPE_CHECKING:  # a type checker would take every name for granted

    def __getattr__(name):
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
