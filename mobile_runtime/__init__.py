"""Open a bundle and talk to it: `Session` and its options. Run any Core ML package: `Package`.

A name is imported when it is first used: `import mobile_runtime` itself loads nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobile_runtime.chat.options import GREEDY, ChatOptions
    from mobile_runtime.chat.prompt import PromptOptions
    from mobile_runtime.chat.stream import ChatStream
    from mobile_runtime.engines import EngineOptions
    from mobile_runtime.engines.memory import Limits
    from mobile_runtime.errors import InputError
    from mobile_runtime.package.described import PackageDescription, describe_package
    from mobile_runtime.package.package import Package, PackageState
    from mobile_runtime.package.predictions import predict_anywhere
    from mobile_runtime.session import Session

__all__ = [
    "GREEDY",
    "ChatOptions",
    "ChatStream",
    "EngineOptions",
    "InputError",
    "Limits",
    "Package",
    "PackageDescription",
    "PackageState",
    "PromptOptions",
    "Session",
    "describe_package",
    "predict_anywhere",
]
_HOMES = {
    "EngineOptions": "mobile_runtime.engines",
    "InputError": "mobile_runtime.errors",
    "Limits": "mobile_runtime.engines.memory",
    "PromptOptions": "mobile_runtime.chat.prompt",
    "ChatStream": "mobile_runtime.chat.stream",
    **dict.fromkeys(("GREEDY", "ChatOptions"), "mobile_runtime.chat.options"),
    "Session": "mobile_runtime.session",
    **dict.fromkeys(("Package", "PackageState"), "mobile_runtime.package.package"),
    **dict.fromkeys(("PackageDescription", "describe_package"), "mobile_runtime.package.described"),
    "predict_anywhere": "mobile_runtime.package.predictions",
}

if not TYPE_CHECKING:  # a type checker would take every name for granted

    def __getattr__(name):
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
