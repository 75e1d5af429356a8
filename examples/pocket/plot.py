"""The loss curve of a run as a picture."""

from __future__ import annotations

import csv
from pathlib import Path


def plot_losses(table: Path, picture: Path) -> None:
    """Losses (log scale) and exactly right answers over minutes, from losses.csv."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    minutes = [float(row["seconds"]) / 60 for row in rows]
    figure, (upper, lower) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 6))
    for name in ("answer", "query", "patch"):
        upper.plot(minutes, [float(row[name]) or float("nan") for row in rows], label=name)
    upper.set_yscale("log")
    upper.set_ylabel("loss")
    for name, label in (("exact", "answers"), ("text", "texts, read off the queries")):
        lower.plot(minutes, [100 * float(row[name]) for row in rows], label=label)
    lower.set_ylabel("exactly right, %")
    lower.set_xlabel("minutes of training")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)
