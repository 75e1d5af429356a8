"""Quality by text and bundle: as a table, as JSON, with confidence intervals.

Neighbouring tokens are not independent, so an interval goes by the means of blocks of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mobile_runtime.files import write_json
from validation.quality.measure import Scores

_Z = 1.959964  # 97.5 % quantile of the normal distribution
_BLOCK = 32  # tokens


@dataclass(frozen=True)
class Quality:
    """What a bundle keeps of one text. Distances in nats, shares of tokens, `*_error` half the
    width of a 95 % confidence interval."""

    bundle: str
    text: str
    tokens: int
    bits_per_weight: float
    perplexity: float
    reference_perplexity: float
    kl: float
    kl_error: float
    kl_p99: float
    top1: float
    top1_error: float
    top5: float

    @classmethod
    def of(cls, bundle: str, text: str, bits: float, scores: Scores) -> Quality:
        """Sum up the figures of single tokens."""
        return cls(
            bundle=bundle,
            text=text,
            tokens=len(scores.kl),
            bits_per_weight=bits,
            perplexity=float(np.exp(scores.loss.mean())),
            reference_perplexity=float(np.exp(scores.reference_loss.mean())),
            kl=float(scores.kl.mean()),
            kl_error=error_of_mean(scores.kl),
            kl_p99=float(np.quantile(scores.kl, 0.99)),
            top1=float(scores.top[1].mean()),
            top1_error=error_of_mean(scores.top[1]),
            top5=float(scores.top[5].mean()),
        )


def error_of_mean(values: np.ndarray) -> float:
    """Half the width of the 95 % confidence interval of the mean of consecutive values (n,); NaN
    for fewer than two blocks."""
    count = len(values) // _BLOCK
    if count < 2:
        return float("nan")
    blocks = values[: count * _BLOCK].reshape(count, _BLOCK).astype(np.float64).mean(axis=1)
    return float(_Z * blocks.std(ddof=1) / count**0.5)


def print_qualities(rows: Sequence[Quality], console: Console) -> None:
    """Print one line per bundle and text."""
    columns = ("bundle", "text", "bits", "perplexity", "KL", "99 % of KL", "first token kept, %")
    table = Table(*columns, "within five, %")
    for row in rows:
        table.add_row(
            row.bundle,
            row.text,
            f"{row.bits_per_weight:.2f}",
            f"{row.perplexity:.3f} ({row.reference_perplexity:.3f})",
            f"{row.kl:.4f} ± {row.kl_error:.4f}",
            f"{row.kl_p99:.3f}",
            f"{100 * row.top1:.1f} ± {100 * row.top1_error:.1f}",
            f"{100 * row.top5:.1f}",
        )
    console.print(table)
    console.print("In brackets: the checkpoint in float32. ± gives 95 % confidence intervals.")


def write_qualities(rows: Sequence[Quality], path: Path) -> None:
    """Write the figures as JSON."""
    write_json(path, {"rows": [asdict(row) for row in rows]})
