"""Results of a benchmark: as a table, as JSON, and two of them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json, write_json
from validation.answers.report import Score
from validation.benchmark.run import Record
from validation.benchmark.statistics import (
    Interval,
    bootstrap,
    mcnemar,
    paired_bootstrap,
    ratio,
)
from validation.benchmark.suites import METRICS, Metric

_REMEDY = "give a file that python -m validation benchmark --json wrote"


@dataclass(frozen=True)
class Figure:
    """A task's figure of one model, with its 95 % confidence interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Difference:
    """The first model's figure minus the second's on the same items, and for right answers the
    p-value of McNemar's exact test, and how many only one of them has right."""

    value: float
    interval: Interval
    p: float | None = None
    only_first: int | None = None
    only_second: int | None = None


@dataclass(frozen=True)
class Result:
    """`protocol` is what results must share to be compared: the suite, its items, how they are
    asked. `models` are the facts of each model by candidate, `not_run` the reasons by candidate and
    task."""

    protocol: Mapping[str, Any]
    metrics: Mapping[str, Metric]
    models: Mapping[str, Mapping[str, Any]]
    records: Sequence[Record]
    not_run: Mapping[str, Mapping[str, str]]

    def of(self, candidate: str, task: str) -> list[Record]:
        """Records in the order of the items."""
        found = (r for r in self.records if (r.candidate, r.task) == (candidate, task))
        return sorted(found, key=lambda record: record.item)

    def write(self, path: Path) -> None:
        """Write all as JSON, with the figures, whole or not at all."""
        figures: dict[str, Any] = {}
        for task, metric in self.metrics.items():
            found = {c: r for c in self.models if (r := self.of(c, task))}
            figures[task] = {"metric": metric}
            figures[task] |= {c: asdict(figure(r, metric)) for c, r in found.items()}
            if len(found) == 2:
                first, second = found.values()
                figures[task]["difference"] = asdict(difference(first, second, metric))
        facts = {"protocol": self.protocol, "metrics": self.metrics, "models": self.models}
        records = [asdict(record) for record in self.records]
        rest = {"not_run": self.not_run, "figures": _finite(figures), "records": records}
        write_json(path, {**facts, **rest})


def _finite(value: Any) -> Any:
    """The value with None for what is no number: JSON has none of those."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def read_result(path: Path) -> Result:
    """Read what `Result.write` wrote. Raises `InputError` for another file."""
    value = read_json(path, _REMEDY)
    try:
        records = [Record(**record) for record in value["records"]]
        return Result(
            value["protocol"], value["metrics"], value["models"], records, value["not_run"]
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no result of a benchmark ({error}); {_REMEDY}.") from error


def figure(records: Sequence[Record], metric: Metric) -> Figure:
    """The figure of a task. Shares have Wilson's interval, others a bootstrap's."""
    values, weights, groups = _arrays(records)
    if metric == "right answers":
        score = Score(int(values.sum()), len(values), ())
        return Figure(score.share, Interval(*score.interval()))
    return Figure(ratio(values, weights), bootstrap(values, weights, groups))


def difference(records: Sequence[Record], others: Sequence[Record], metric: Metric) -> Difference:
    """The difference between two models on the same items."""
    (values, weights, groups), (second, *_) = _arrays(records), _arrays(others)
    value = ratio(values, weights) - ratio(second, weights)
    interval = paired_bootstrap(values, second, weights, groups)
    if metric != "right answers":
        return Difference(value, interval)
    first, other = values > 0, second > 0
    only = int((first & ~other).sum()), int((other & ~first).sum())
    return Difference(value, interval, mcnemar(first, other), *only)


def _arrays(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [(record.value, record.weight, record.item) for record in records]
    values, weights, items = np.array(rows, np.float64).T
    return values, weights, items


def compare(first: Path, second: Path, console: Console) -> None:
    """Print what the bundles of two results differ in. Raises `InputError` if their protocols
    differ."""
    results = [read_result(path) for path in (first, second)]
    a, b = (dict(result.protocol) for result in results)
    if unequal := [key for key in {**a, **b} if a.get(key) != b.get(key)]:
        raise InputError(
            f"{first} and {second} were not made alike: {', '.join(unequal)} differ. Run both "
            "bundles with the same suite, limit and versions."
        )
    names = [
        f"{path.stem}: {result.models['bundle']['bundle']}"
        for path, result in zip((first, second), results, strict=True)
    ]
    _print(
        results[0].metrics,
        names,
        [{task: r.of("bundle", task) for task in r.metrics} for r in results],
        [r.not_run.get("bundle", {}) for r in results],
        console,
    )


def print_result(result: Result, console: Console) -> None:
    """Print the figures of all candidates, and what did not run."""
    names = [str(facts.get("bundle", "PyTorch fp32")) for facts in result.models.values()]
    _print(
        result.metrics,
        names,
        [{task: result.of(c, task) for task in result.metrics} for c in result.models],
        [result.not_run.get(c, {}) for c in result.models],
        console,
    )
    for name, reasons in result.not_run.items():
        if name not in result.models:
            for task, reason in reasons.items():
                console.print(f"{name}, {task}: not run, {reason}")


def _print(
    metrics: Mapping[str, Metric],
    names: Sequence[str],
    found: Sequence[Mapping[str, Sequence[Record]]],
    not_run: Sequence[Mapping[str, str]],
    console: Console,
) -> None:
    both = len(names) == 2
    table = Table("task", "figure", *names, *(("difference", "p") if both else ()))
    for task, metric in metrics.items():
        cells = [_cell(records[task], metric) for records in found]
        if both and all(records[task] for records in found):
            gap = difference(found[0][task], found[1][task], metric)
            p = "" if gap.p is None else f"{gap.p:.3g}"
            cells += [_range(gap.value, gap.interval, metric, "+"), p]
        table.add_row(task.replace("_", " "), metric, *cells)
    console.print(table)
    for metric in dict.fromkeys(metrics.values()):
        console.print(f"{metric}: {METRICS[metric]}")
    console.print("In brackets 95 % confidence intervals; p is that of McNemar's exact test.")
    for name, reasons in zip(names, not_run, strict=True):
        for task, reason in reasons.items():
            console.print(f"{name}, {task}: not run, {reason}")


def _cell(records: Sequence[Record], metric: Metric) -> str:
    if not records:
        return "not run"
    one = figure(records, metric)
    return _range(one.value, one.interval, metric)


def _range(value: float, interval: Interval, metric: Metric, sign: str = "") -> str:
    scale, digits = (100, 1) if metric == "right answers" else (1, 3)
    unit = " %" if scale == 100 else ""
    shown = f"{scale * value:{sign}.{digits}f}{unit}"
    if np.isnan(interval.low):
        return shown
    low, high = (f"{scale * end:{sign}.{digits}f}" for end in interval)
    return f"{shown} ({low} to {high})"
