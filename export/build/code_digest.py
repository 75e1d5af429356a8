"""Digest of the code that determines the bytes of a part: other code may write other bytes.

Comments and docstrings do not count, nor does code that only prints, plans or writes texts.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Folders and modules, from the folder that holds the packages.
_DECIDE = (
    "export/backends",
    "export/build/parts.py",
    "export/checkpoint",
    "export/graphs",
    "export/host/tables.py",
    "export/models",
    "export/quant",
    "mobile_runtime/bundle.py",
    "mobile_runtime/model/positions.py",
)
# What else decides the weights of a calibration.
_CALIBRATE = (
    *("export/calibration", "export/checkpoint", "export/graphs", "export/models", "export/quant"),
    *("export/releases", "mobile_runtime/chat", "mobile_runtime/pictures"),
    "mobile_runtime/model/positions.py",
)


def code_digest(root: Path = ROOT) -> str:
    """Digest of the code that decides the bytes of a part."""
    return _digest(root, _DECIDE)


def calibration_digest(root: Path = ROOT) -> str:
    """Digest of the code that decides the weights of a calibration."""
    return _digest(root, _CALIBRATE)


@cache
def _digest(root: Path, names: tuple[str, ...]) -> str:
    """SHA-256 of the syntax of all modules in `names` under `root`."""
    total = hashlib.sha256()
    for path in _modules(root, names):
        total.update(f"{path.relative_to(root).as_posix()}\n".encode())
        total.update(_syntax(path.read_text(encoding="utf-8")).encode())
    return total.hexdigest()


def _modules(root: Path, names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        path = root / name
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _syntax(source: str) -> str:
    """The syntax tree without docstrings; comments and line numbers are not in it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            del body[0]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
