"""Devices: their memory, what an app may have of it, and how fast the Neural Engine reads weights.

Each figure in devices.json has a source and a date; one that nobody published is absent, and what
rests on it is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from mobile_runtime.errors import InputError
from mobile_runtime.files import load_json
from mobile_runtime.strict_json import decode

_FILE = Path(__file__).with_name("devices.json")
_REMEDY = "install the project again"


@dataclass(frozen=True)
class Figure:
    """A number with where it comes from; `date` is that of the report, or
    the system's version, or "undated"."""

    value: float
    source: str
    date: str


@dataclass(frozen=True)
class Device:
    """One device. Sizes are in GB (10⁹ bytes): `app_gb` is what an app may have, `entitled_app_gb`
    with the entitlements for more memory. `bandwidth_gbps` is what its Neural Engine was measured
    to read, in GB per second. `seconds_per_view` is what another runtime takes for one
    view until the first token, in seconds."""

    name: str
    title: str
    kind: Literal["phone", "tablet", "mac"]
    year: int
    memory_gb: float | None
    app_gb: Figure | None
    entitled_app_gb: Figure | None
    bandwidth_gbps: Figure | None
    seconds_per_view: Figure | None


@cache
def all_devices() -> tuple[Device, ...]:
    """All that are known, phones first."""
    items = load_json(_FILE, _REMEDY)
    return tuple(decode(Device, item, item["name"], _FILE.name, _REMEDY) for item in items)


def find_devices(names: Sequence[str] | None) -> tuple[Device, ...]:
    """The devices of these names, all without names. Raises `InputError`, which lists them, for an
    unknown name."""
    known = {device.name: device for device in all_devices()}
    for name in names or ():
        if name not in known:
            raise InputError(f"no device is called {name!r}; known are {', '.join(known)}.")
    return tuple(known[name] for name in names or known)
