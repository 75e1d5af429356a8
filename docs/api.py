"""The reference of the Python API: what the packages' `__all__` name, for mkdocstrings to render.

On the built site each `:::` line becomes the object's signature and docstring. Read as plain
Markdown, the tables say what each name is.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

PACKAGES = ("mobile_runtime", "export", "validation")
_INTRODUCTION = """\
# Python API

<!-- Written by `python -m docs.generate` from docstrings. Edits are overwritten. -->

These are the public names. Everything else may change without notice. The site that `make docs`
builds shows the signature and the docstring of each.
"""


def api_page() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *map(_section, PACKAGES)])


def _section(package: str) -> str:
    module = importlib.import_module(package)
    lines = [f"## {package}", "", inspect.getdoc(module) or "", "", "| name | what it is |"]
    lines += ["|---|---|"]
    lines += [f"| `{name}` | {_summary(getattr(module, name))} |" for name in module.__all__]
    for name in module.__all__:
        lines += ["", f"::: {package}.{name}"]
    return "\n".join([*lines, ""])


def _summary(thing: Any) -> str:
    """The first sentence of a class's or function's docstring; the type of a value."""
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return f"A constant of type `{type(thing).__name__}`."
    paragraph = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return (sentence + stop.strip()).replace("|", "\\|")
