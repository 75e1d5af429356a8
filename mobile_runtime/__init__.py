"""Open a bundle and talk to it: `Session`, its options, and the error that it raises.

A name is imported when it is first used: `import mobile_runtime` itself loads nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobile_runtime.chat.prompt import PromptOptions
    from mobile_runtime.engines import EngineOptions
    from mobile_runtime.errors import InputError
    from mobile_runtime.session import GREEDY, ChatOptions, ChatStream, Session

__all__ = [
    "GREEDY",
    "ChatOptions",
    "ChatStream",
    "EngineOptions",
    "InputError",
    "PromptOptions",
    "Session",
]
_HOMES = {
    "EngineOptions": "mobile_runtime.engines",
    "InputError": "mobile_runtime.errors",
    "PromptOptions": "mobile_runtime.chat.prompt",
    **dict.fromkeys(("GREEDY", "ChatOptions", "ChatStream", "Session"), "mobile_runtime.session"),
}

if not TYPE_CHECKING:  # a type checker would take every name for granted

    def __getattr__(name):
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
