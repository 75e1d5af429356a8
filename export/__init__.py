"""Turn a checkpoint into a bundle: `export_bundle`, its `ExportConfig`, the targets in `BACKENDS`.

Each name is imported on first use: `import export` itself loads nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from export.backends import BACKENDS
    from export.build.progress import Progress
    from export.config import ExportConfig
    from export.pipeline import export_bundle
    from mobile_runtime.errors import InputError

__all__ = ["BACKENDS", "ExportConfig", "InputError", "Progress", "export_bundle"]
_HOMES = {
    "BACKENDS": "export.backends",
    "ExportConfig": "export.config",
    "InputError": "mobile_runtime.errors",
    "Progress": "export.build.progress",
    "export_bundle": "export.pipeline",
}

if not TYPE_CHECKING:  # with __getattr__, a type checker would accept any name

    def __getattr__(name):
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
