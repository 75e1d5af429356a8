"""What others report of language models on devices, and what it says of a device.

A decoder that gives t tokens per second and reads b bytes for each reads t·b bytes per second; one
that takes n positions per second in its prompt computes 2·parameters·n operations per second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mobile_runtime.files import load_json
from mobile_runtime.strict_json import decode
from validation.planner.devices import Device, all_devices

_FILE = Path(__file__).with_name("reported.json")
_REMEDY = "install the project again"


@dataclass(frozen=True)
class Reported:
    """One report. `parameters_b` are 10⁹, `read_gb` is what a token reads in GB, or at most so much
    if it is not known; `decode` and `prefill` are in tokens per second."""

    model: str
    device: str
    runtime: str
    parameters_b: float
    read_gb: float
    read_is_known: bool
    decode: float
    prefill: float | None
    source: str
    date: str

    @property
    def reads_gbps(self) -> float:
        """GB per second that the reported speed implies."""
        return self.decode * self.read_gb


@dataclass(frozen=True)
class Rates:
    """Rates from the least to the most, both ends included."""

    least: float
    most: float


@cache
def all_reports() -> tuple[Reported, ...]:
    """All that are known."""
    items = load_json(_FILE, _REMEDY)
    return tuple(decode(Reported, item, item["model"], _FILE.name, _REMEDY) for item in items)


def reading_rates(device: Device, reports: Iterable[Reported]) -> Rates | None:
    """GB per second that decoders read on a device. If its bandwidth was measured, that times the
    shares which were reached where it was; otherwise between the reports of this very device. None
    without either.
    """
    known = [report for report in reports if report.read_is_known]
    if device.bandwidth_gbps is None:
        rates = [report.reads_gbps for report in known if report.device == device.name]
    else:
        measured = {d.name: d.bandwidth_gbps.value for d in all_devices() if d.bandwidth_gbps}
        shares = [r.reads_gbps / measured[r.device] for r in known if r.device in measured]
        rates = [share * device.bandwidth_gbps.value for share in shares]
    return Rates(min(rates), max(rates)) if rates else None


def computing_rates(device: Device, reports: Iterable[Reported]) -> Rates | None:
    """10¹² operations per second in prompts on a device, between its reports; None without one."""
    own = [
        2 * report.parameters_b * report.prefill / 1e3
        for report in reports
        if report.device == device.name and report.prefill is not None
    ]
    return Rates(min(own), max(own)) if own else None
