"""The reference of devices, from the data of the planner: figures with sources, errors stated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from validation.planner.devices import Device, Figure, all_devices
from validation.planner.estimate import cross_check
from validation.planner.report import check_rows, sources_of

_INTRODUCTION = """\
# Devices and predictions

<!-- Written by `python -m docs.generate` from validation/planner. Edits are overwritten. -->

`python -m validation plan` judges a model by these figures. Nothing here was measured on a device
by this project. Sizes are in GB of 10⁹ bytes; "with entitlements" means
`com.apple.developer.kernel.increased-memory-limit` and `extended-virtual-addressing`.
"""
_CHECK = """\
## Predictions beside reports

Each report is predicted from all others, never from itself, in tokens per second. The error is the
distance of the nearer end of the predicted range. Where it is not known how much of a model a token
reads, decoding is not judged. Reports of GPUs are not used: the planner is about the Neural Engine.
"""


def devices_page() -> str:
    """The whole page."""
    devices = all_devices()
    rows = [_row(device) for device in devices]
    head = ("name", "device", "year", "memory", "app", "with entitlements", "reads, GB/s")
    sources = [f"- {text} ({', '.join(names)})" for text, names in sources_of(devices).items()]
    checks = (
        *("model", "device", "runtime"),
        *("decode", "predicted", "error", "prompt", "predicted", "error", "source"),
    )
    parts = (
        _INTRODUCTION,
        _table(head, rows),
        "## Sources\n",
        "\n".join([*sources, ""]),
        _CHECK,
        _table(checks, list(check_rows(cross_check()))),
    )
    return "\n".join(parts)


def _row(device: Device) -> tuple[str, ...]:
    def shown(figure: Figure | None) -> str:
        return "unknown" if figure is None else f"{figure.value:g}"

    memory = "any" if device.memory_gb is None else f"{device.memory_gb:g}"
    figures = (device.app_gb, device.entitled_app_gb, device.bandwidth_gbps)
    return (f"`{device.name}`", device.title, str(device.year), memory, *map(shown, figures))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:], ""])
