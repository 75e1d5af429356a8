"""The report of a self-test on a device: the Swift package's JSON, checked, as tables and a page.

Knows the fields that the package writes; knows neither bundles nor models. Given the figures of
`python -m validation parity`, it judges each stage by them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mobile_runtime.command import printable
from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json, write_text

VERSION = 1
UNITS = ("neural_engine", "gpu", "cpu")
STAGES = ("preprocessing", "vision_encoder", "resampler", "logits", "greedy_tokens")
_MARGIN = 3.0  # decibels below the interpreter's figure that a device may lose
_PICTURES_FLOOR = 40.0  # a difference of one level in every value gives 48 dB


@dataclass(frozen=True)
class Measured:
    """One stage on one unit; `decibels` is NaN if the device computed NaN."""

    stage: str
    unit: str | None
    decibels: float | None
    agreement: float | None
    seconds: float
    count: int
    note: str
    failure: str | None


@dataclass(frozen=True)
class Placed:
    """Where one package ran."""

    package: str
    unit: str
    planned_share: float | None
    load_seconds: float
    seconds_per_call: float | None
    passed_over: tuple[str, ...]


@dataclass(frozen=True)
class DeviceReport:
    """Everything that the file says."""

    device: str
    system: str
    model: str
    recipe: str
    manifest_sha256: str
    available_bytes: int | None
    peak_bytes: int
    stages: tuple[Measured, ...]
    placements: tuple[Placed, ...]

    def print(self, console: Console, floors: Mapping[str, float] | None = None) -> None:
        """Print the tables."""
        for title, columns, rows in self._tables(floors):
            table = Table(*columns, title=title, title_justify="left")
            for row in rows:
                table.add_row(*row)
            console.print(table)
        console.print(self._summary())

    def write_page(self, path: Path, floors: Mapping[str, float] | None = None) -> None:
        """Write the tables as one HTML page, in one step."""
        parts = [_HEAD, f"<h1>{_html(self.device)}</h1><p>{_html(self._summary())}</p>"]
        for title, columns, rows in self._tables(floors):
            head = "".join(f"<th>{_html(name)}</th>" for name in columns)
            body = "".join(
                "<tr>" + "".join(f"<td>{_html(cell)}</td>" for cell in row) + "</tr>\n"
                for row in rows
            )
            parts.append(f"<h2>{_html(title)}</h2><table><tr>{head}</tr>\n{body}</table>")
        write_text(path, "\n".join(parts) + "\n")

    def failed(self, floors: Mapping[str, float] | None = None) -> bool:
        """Whether any stage failed on any unit."""
        return any(judge(stage, floors or {}) == "failed" for stage in self.stages)

    def _summary(self) -> str:
        left = "" if self.available_bytes is None else f" of {self.available_bytes / 1e9:.2f}"
        return (
            f"{self.device}, {self.system}: {self.model}, recipe {self.recipe}, manifest "
            f"{self.manifest_sha256[:12]}; memory {self.peak_bytes / 1e9:.2f}{left} GB"
        )

    def _tables(
        self, floors: Mapping[str, float] | None
    ) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        known = floors or {}
        stages: list[tuple[str, ...]] = [
            (
                stage.stage,
                stage.unit or "host",
                judge(stage, known),
                _figure(stage, known),
                f"{stage.seconds / stage.count:.3f} s × {stage.count}" if stage.count else "",
                stage.failure or stage.note,
            )
            for stage in self.stages
        ]
        placements: list[tuple[str, ...]] = [
            (
                placed.package,
                placed.unit,
                "" if placed.planned_share is None else f"{placed.planned_share:.0%}",
                f"{placed.load_seconds:.1f} s",
                ""
                if placed.seconds_per_call is None
                else f"{1e3 * placed.seconds_per_call:.1f} ms",
                " ".join(placed.passed_over),
            )
            for placed in self.placements
        ]
        return [
            ("Stages", ("stage", "unit", "status", "against PyTorch", "time", "note"), stages),
            ("Packages", ("package", "unit", "planned", "load", "call", "passed over"), placements),
        ]


_HEAD = """<!doctype html><meta charset="utf-8"><title>Self-test</title>
<style>body{font:15px system-ui;margin:2em}table{border-collapse:collapse}
th,td{text-align:left;padding:.3em .8em;border-bottom:1px solid #ccc}</style>"""


def _html(text: str) -> str:
    return html.escape(printable(text))


def judge(stage: Measured, floors: Mapping[str, float]) -> str:
    """Return "passed", "failed", "measured" (there is no floor) or "not run"; NaN fails."""
    if stage.failure:
        return "failed"
    if stage.decibels is None:
        return "not run" if stage.agreement is None else "measured"
    if math.isnan(stage.decibels):
        return "failed"
    floor = _floor(stage, floors)
    if floor is None:
        return "measured"
    return "passed" if stage.decibels >= floor else "failed"


def _floor(stage: Measured, floors: Mapping[str, float]) -> float | None:
    return _PICTURES_FLOOR if stage.stage == "preprocessing" else floors.get(stage.stage)


def _figure(stage: Measured, floors: Mapping[str, float]) -> str:
    if stage.agreement is not None:
        return f"{stage.agreement:.1%} of the tokens"
    if stage.decibels is None:
        return ""
    floor = _floor(stage, floors)
    exact = math.isinf(stage.decibels) and stage.decibels > 0
    text = "exact" if exact else f"{stage.decibels:.1f} dB"
    return text if floor is None else f"{text} (≥ {floor:.1f})"


def read_floors(path: Path) -> dict[str, float]:
    """Return each stage's floor in dB from a parity report of the same bundle: its figure against
    the checkpoint, less a margin. The figure of `end_to_end` serves for the logits, which the
    device computes from golden embeddings. Raises `InputError` if the file has no figures."""
    stages = _list(read_json(path, "get the file again"), "stages", str(path))
    found = {stage.get("stage"): stage.get("checkpoint_db") for stage in stages}
    names = {"vision_encoder": "vision_encoder", "resampler": "resampler", "end_to_end": "logits"}
    floors = {}
    for name, ours in names.items():
        value = found.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            floors[ours] = value - _MARGIN
    if not floors:
        raise InputError(
            f"{path} has no figures of stages; give the report.json of "
            "`python -m validation parity`."
        )
    return floors


def read_device_report(path: Path) -> DeviceReport:
    """Read and check what `selfTest()` of the Swift package wrote. Raises `InputError` if a field
    is missing or wrong."""
    name = str(path)
    value = read_json(path, "get the file again")
    if value.get("version") != VERSION or "stages" not in value:
        raise InputError(
            f"{name} is no self-test report of version {VERSION}; give the JSON of `selfTest()`."
        )
    available = value.get("available_bytes")
    return DeviceReport(
        device=_text(value, "device", name),
        system=_text(value, "system", name),
        model=_text(value, "model", name),
        recipe=_text(value, "recipe", name),
        manifest_sha256=_text(value, "manifest_sha256", name),
        available_bytes=None if available is None else _count(value, "available_bytes", name),
        peak_bytes=_count(value, "peak_bytes", name),
        stages=tuple(_stage(item, name) for item in _list(value, "stages", name)),
        placements=tuple(_placed(item, name) for item in _list(value, "placements", name)),
    )


def _stage(value: Mapping[str, Any], name: str) -> Measured:
    stage, unit = _text(value, "stage", name), value.get("unit")
    if stage not in STAGES or (unit is not None and unit not in UNITS):
        raise InputError(
            f"{name} has the stage {stage!r} on the unit {unit!r}; stages are {', '.join(STAGES)}, "
            f"units {', '.join(UNITS)}."
        )
    agreement = _number(value, "agreement", name)
    if agreement is not None and not 0 <= agreement <= 1:
        raise InputError(f"{name} has the agreement {agreement}; it must be 0 to 1.")
    return Measured(
        stage=stage,
        unit=unit,
        decibels=_number(value, "decibels", name),
        agreement=agreement,
        seconds=_seconds(value, "seconds", name),
        count=_count(value, "count", name),
        note=_text(value, "note", name),
        failure=None if value.get("failure") is None else _text(value, "failure", name),
    )


def _placed(value: Mapping[str, Any], name: str) -> Placed:
    reasons = value.get("passed_over")
    if not isinstance(reasons, list) or not all(isinstance(text, str) for text in reasons):
        raise _wrong(name, "passed_over", reasons, "a list of texts")
    return Placed(
        package=_text(value, "package", name),
        unit=_text(value, "unit", name),
        planned_share=_number(value, "planned_share", name),
        load_seconds=_seconds(value, "load_seconds", name),
        seconds_per_call=_number(value, "seconds_per_call", name),
        passed_over=tuple(reasons),
    )


def _wrong(name: str, field: str, value: object, allowed: str) -> InputError:
    return InputError(
        f"{name} has {field} = {value!r}; it must be {allowed}: run selfTest() again."
    )


def _text(value: Mapping[str, Any], field: str, name: str) -> str:
    found = value.get(field)
    if not isinstance(found, str):
        raise _wrong(name, field, found, "a text")
    return found


def _count(value: Mapping[str, Any], field: str, name: str) -> int:
    found = value.get(field)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise _wrong(name, field, found, "a whole number from 0")
    return found


def _seconds(value: Mapping[str, Any], field: str, name: str) -> float:
    found = _number(value, field, name)
    if found is None or not 0 <= found < math.inf:
        raise _wrong(name, field, found, "a number of seconds")
    return found


def _number(value: Mapping[str, Any], field: str, name: str) -> float | None:
    """Return a number, None if it is absent; JSON has "inf", "-inf" and "nan" as texts."""
    found = value.get(field)
    if found in ("inf", "-inf", "nan"):
        return float(found)
    if found is None or (isinstance(found, int | float) and not isinstance(found, bool)):
        return None if found is None else float(found)
    raise _wrong(name, field, found, "a number")


def _list(value: Mapping[str, Any], field: str, name: str) -> Sequence[Mapping[str, Any]]:
    found = value.get(field)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise _wrong(name, field, found, "a list of objects")
    return found
