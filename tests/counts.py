"""Counts of long runs, which are made in parts: a JSON file with a row for each part."""

import json

from mobile_runtime.files import write_json


def add_rows(path, rows):
    """Put `rows`, by name, into the file `path`; they replace rows of the same names."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, {**before, **rows})
