"""Needs and a device -> whether it fits, and how fast it can be there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mobile_runtime.errors import InputError
from validation.planner.devices import Device, all_devices
from validation.planner.needs import Needs
from validation.planner.reported import (
    Rates,
    Reported,
    all_reports,
    computing_rates,
    reading_rates,
)

Verdict = Literal["fit", "tight", "no", "unknown"]
MOST_VIEWS = 10
QUESTION_TOKENS = 32  # of text around the pictures
# Seconds that a call of a package takes besides its work (astronomical#540, onnxsim#967).
CALL_LEAST, CALL_MOST = 0.09e-3, 0.23e-3


@dataclass(frozen=True)
class DevicePlan:
    """What is expected of a model on a device. `ceiling` is tokens per second if the Neural Engine
    did nothing but read; `decode` is from the least to the most that reports make likely, and
    `first_token` seconds for each number of views. None: nobody published what it rests on."""

    device: Device
    verdict: Verdict
    reason: str
    ceiling: float | None
    decode: Rates | None
    first_token: Mapping[int, Rates | None]


def plan_device(needs: Needs, device: Device, views: Iterable[int]) -> DevicePlan:
    """Judge one device. Raises `InputError` for a number of views that is none of 1 to 10."""
    wanted = tuple(views)
    for count in wanted:
        if not 1 <= count <= MOST_VIEWS:
            raise InputError(
                f"--views is {count}; give 1 to {MOST_VIEWS}, the whole picture first."
            )
    verdict, reason = _verdict(needs, device)
    reports = all_reports()
    reads, computes = reading_rates(device, reports), computing_rates(device, reports)
    bandwidth = device.bandwidth_gbps
    return DevicePlan(
        device,
        verdict,
        reason,
        ceiling=None if bandwidth is None else bandwidth.value * 1e9 / needs.read_per_token,
        decode=None if reads is None else _decoding(needs, reads),
        first_token={count: _first_token(needs, count, computes) for count in wanted},
    )


def _verdict(needs: Needs, device: Device) -> tuple[Verdict, str]:
    if device.entitled_app_gb is None:
        return "unknown", "nobody published what an app may have"
    limit = device.entitled_app_gb.value * 1e9
    if needs.load_peak <= limit:
        return "fit", "with the entitlements for more memory"
    if needs.steady <= limit:
        return "tight", "opening the last package may take more than there is"
    if needs.text <= limit:
        return "tight", "the vision side has to be closed while text is written"
    return "no", f"text takes {needs.text / 1e9:.2f} GB of {limit / 1e9:.1f}"


def _decoding(needs: Needs, reads: Rates) -> Rates:
    read, calls = needs.read_per_token / 1e9, needs.calls_per_token
    slow, fast = read / reads.least + calls * CALL_MOST, read / reads.most + calls * CALL_LEAST
    return Rates(1 / slow, 1 / fast)


def _first_token(needs: Needs, views: int, rates: Rates | None) -> Rates | None:
    if rates is None:
        return None
    work = needs.prompt_work(views, QUESTION_TOKENS) / 1e12
    calls = needs.prompt_calls(views, QUESTION_TOKENS)
    return Rates(work / rates.most + calls * CALL_LEAST, work / rates.least + calls * CALL_MOST)


@dataclass(frozen=True)
class Check:
    """A report beside what all other reports would have predicted for it, in tokens per second."""

    reported: Reported
    decode: Rates | None
    prefill: Rates | None


def cross_check() -> tuple[Check, ...]:
    """Predict every report from the others: none is judged by a rate that it gave itself."""
    devices = {device.name: device for device in all_devices()}
    checks = []
    for report in all_reports():
        others = [other for other in all_reports() if other is not report]
        reads = reading_rates(devices[report.device], others)
        computes = computing_rates(devices[report.device], others)
        work = 2 * report.parameters_b / 1e3  # 10¹² operations per token
        checks.append(
            Check(
                report,
                None if reads is None else _per(reads, report.read_gb),
                None if computes is None or not report.prefill else _per(computes, work),
            )
        )
    return tuple(checks)


def _per(rates: Rates, amount: float) -> Rates:
    return Rates(rates.least / amount, rates.most / amount)


def error_of(reported: float, predicted: Rates) -> float:
    """How far a prediction is off, as a part of what is reported: 0 if it is within the range,
    below zero if even the most is too little."""
    nearest = min(max(reported, predicted.least), predicted.most)
    return nearest / reported - 1
