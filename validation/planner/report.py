"""A plan on the terminal and as JSON, and the table of predictions beside reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from validation.planner.devices import Device, Figure
from validation.planner.estimate import QUESTION_TOKENS, Check, DevicePlan, error_of
from validation.planner.needs import Needs
from validation.planner.reported import Rates

_CONTEXTS = (1024, 2048, 4096, 8192)
_REST = (
    "Decoding reads the decoder, the head and the whole allocated cache once per token.",
    "The range of tokens per second is what other decoders reached on the device, or the share of "
    "its bandwidth that others reached elsewhere.",
    f"The first token comes after the vision tower and the decoder have taken the views and "
    f"{QUESTION_TOKENS} tokens of text, at the rates of other models' prompts on the device.",
    "Each call of a package takes 0.09 to 0.23 ms besides (astronomical#540, onnxsim#967).",
    "While a package is opened, its file is counted beside the copy that the system makes.",
)


_UNKNOWN = "–"
_LEAST = 0.01  # shorter times are not told apart


def print_plan(needs: Needs, plans: Sequence[DevicePlan], console: Console) -> None:
    """Print the parts, the cache by context, a row for each device, and what it all rests on."""
    console.print(f"{needs.model}, recipe {needs.recipe}, {needs.context} tokens of context")
    if needs.context != needs.exported_context:
        console.print(f"  the packages hold {needs.exported_context}: export them again for this")
    table = Table("", Column("GB", justify="right"))
    for name, size in _parts(needs):
        table.add_row(name, f"{size / 1e9:.3f}")
    console.print(table)
    table = Table("context", *(Column(f"{n}", justify="right") for n in _CONTEXTS))
    sizes = (f"{n * needs.cache_per_token / 1e9:.3f}" for n in _CONTEXTS)
    table.add_row("key/value cache, GB", *sizes)
    console.print(table)
    console.print(_devices(plans))
    console.print(f"{_UNKNOWN} stands for what nobody has published.")
    for plan in plans:
        console.print(f"{plan.device.name}: {plan.verdict}, {plan.reason}")
    for line in _REST:
        console.print(line)
    for source, names in sources_of(plan.device for plan in plans).items():
        console.print(f"source of {', '.join(names)}: {source}")


def _devices(plans: Sequence[DevicePlan]) -> Table:
    """A row for each device, narrow enough for 80 columns."""
    views = list(plans[0].first_token) if plans else []
    heads = ("GB", "tokens/s", "at most", *(f"{n} view{'s' if n > 1 else ''}" for n in views))
    table = Table(
        Column("device", no_wrap=True),
        Column("", no_wrap=True),
        *(Column(head, justify="right", no_wrap=True) for head in heads),
        box=box.SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title="GB that an app may have, tokens per second, seconds to the first token by views",
        title_justify="left",
    )
    for plan in plans:
        limit = plan.device.entitled_app_gb
        table.add_row(
            plan.device.name,
            plan.verdict,
            _UNKNOWN if limit is None else f"{limit.value:g}",
            _or_dash(plan.decode),
            _UNKNOWN if plan.ceiling is None else rounded(plan.ceiling),
            *(_or_dash(plan.first_token[n]) for n in views),
        )
    return table


def _or_dash(rates: Rates | None) -> str:
    if rates is not None and rates.most < _LEAST:
        return f"<{_LEAST}"
    return _UNKNOWN if rates is None else in_words(rates)


def _parts(needs: Needs) -> Iterator[tuple[str, int]]:
    yield "download", needs.files
    yield "disk after compilation", needs.disk
    yield "decoder", needs.decoder
    yield "head", needs.head
    yield "vision encoder and resampler", needs.vision
    yield f"key/value cache, {needs.context} tokens", needs.cache
    yield "memory: text only", needs.text
    yield "memory: with pictures", needs.steady
    yield "memory: while the last package is opened", needs.load_peak
    yield "tables, mapped: pages come and go", needs.tables


def in_words(rates: Rates | None) -> str:
    """Such as "6.9–13.8", or "unknown"."""
    if rates is None:
        return "unknown"
    least, most = rounded(rates.least), rounded(rates.most)
    return least if least == most else f"{least}–{most}"


def rounded(number: float) -> str:
    """Two digits that count, such as "0.61", "6.5", "15" or "5300"."""
    return f"{float(f'{number:.1e}'):g}"


def sources_of(devices: Iterable[Device]) -> dict[str, list[str]]:
    """Each figure in words, with its source and date, and the devices that it is of."""
    found: dict[str, list[str]] = {}
    for device in devices:
        for text in _figures(device):
            found.setdefault(text, []).append(device.name)
    return found


def _figures(device: Device) -> Iterator[str]:
    figures: tuple[tuple[str, str, Figure | None], ...] = (
        ("an app may have", "GB", device.app_gb),
        ("an app with entitlements may have", "GB", device.entitled_app_gb),
        ("the Neural Engine reads", "GB/s", device.bandwidth_gbps),
        ("another runtime takes for each view", "s", device.seconds_per_view),
    )
    for name, unit, figure in figures:
        if figure is not None:
            yield f"{name} {figure.value:g} {unit}: {figure.source} ({figure.date})"


def as_json(needs: Needs, plans: Iterable[DevicePlan]) -> dict[str, Any]:
    """Values of JSON: bytes, and for each device its figures with their sources."""
    sizes = {
        name: getattr(needs, name)
        for name in ("cache", "packages", "disk", "text", "steady", "load_peak", "read_per_token")
    }
    return {
        "needs": dataclasses.asdict(needs) | sizes,
        "devices": [dataclasses.asdict(plan) for plan in plans],
        "rests_on": list(_REST),
    }


def check_rows(checks: Iterable[Check]) -> Iterator[tuple[str, ...]]:
    """Rows of the table of predictions: model, device, runtime, then reported, predicted and error
    of decoding and of prompts; the source last."""
    for check in checks:
        report = check.reported
        yield (
            report.model,
            report.device,
            report.runtime,
            f"{report.decode:g}",
            *_predicted(report.decode, check.decode, report.read_is_known),
            "" if report.prefill is None else f"{report.prefill:g}",
            *(
                _predicted(report.prefill, check.prefill, known=True)
                if report.prefill is not None
                else ("", "")
            ),
            f"{report.source}, {report.date}",
        )


def _predicted(reported: float, rates: Rates | None, known: bool) -> tuple[str, str]:
    if rates is None:
        return "unknown", ""
    if not known:  # less is read than it says, so that more is possible
        return f"{rounded(rates.least)} or more", _percent(
            min(0.0, rates.least / reported - 1), known
        )
    return in_words(rates), _percent(error_of(reported, rates), known)


def _percent(error: float, known: bool) -> str:
    if not known:
        return "not judged"
    return "within" if error == 0 else f"{100 * error:+.0f} %"
