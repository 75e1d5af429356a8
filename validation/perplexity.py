"""Perplexity of a text under bundles and under PyTorch: what quantization costs a language model.

The text is cut into stretches as long as the context, each read from an empty cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.files import write_json
from mobile_runtime.session import Session
from validation.reference.reference import Reference
from validation.sources import OpenCheckpoint

Array = np.ndarray
_PRECISIONS: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")


@dataclass(frozen=True)
class TextLoss:
    """Mean negative log-likelihood in nats of a text's tokens under one model."""

    name: str
    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp of the loss."""
        return float(np.exp(self.loss))


def measure_bundles(
    bundles: Sequence[Path], text: str, tokens: int, source: OpenCheckpoint | None
) -> Iterator[TextLoss]:
    """Yield the loss of the text's first `tokens` tokens under PyTorch, if `source` is given, and
    under each bundle in both precisions."""
    if source is not None:
        ids = first_tokens(source.chat_format.tokenizer.encode_text(text), tokens)
        yield TextLoss("PyTorch fp32", _reference_loss(source, ids, tokens), len(ids) - 1)
    for bundle in bundles:
        for precision in _PRECISIONS:
            session = Session.load(bundle, EngineOptions(precision=precision))
            ids = first_tokens(session.tokenizer.encode_text(text), tokens)
            yield TextLoss(f"{bundle.name} {precision}", _bundle_loss(session, ids), len(ids) - 1)


def first_tokens(ids: Sequence[int], tokens: int) -> Array:
    """The first `tokens` ids. Raises `InputError` if there are fewer than two."""
    if len(ids) < 2:
        raise InputError("the text has fewer than two tokens; give a longer one.")
    return np.array(ids[:tokens], np.int64)


def stretches(ids: Array, length: int) -> Iterator[Array]:
    """Stretches of `length` tokens, each with the token that follows it."""
    for begin in range(0, len(ids) - 1, length):
        yield ids[begin : begin + length + 1]


def _bundle_loss(session: Session, ids: Array) -> float:
    total = 0.0
    for part in stretches(ids, session.manifest.decoding.context_length):
        total += nll(bundle_logits(session, part[:-1]), part[1:])
    return total / (len(ids) - 1)


def _reference_loss(source: OpenCheckpoint, ids: Array, length: int) -> float:
    reference, total = Reference(source.config, source.checkpoint), 0.0
    for part in stretches(ids, length):
        total += nll(reference_logits(reference, part[:-1]), part[1:])
    return total / (len(ids) - 1)


def reference_logits(reference: Reference, ids: Array) -> Array:
    """Logits (n, V) of PyTorch after each of the tokens (n,)."""
    text = reference.start(reference.embed(ids))
    (ended,) = reference.run_layers([text], range(reference.config.decoder.num_layers))
    return reference.logits(ended.hidden)


def bundle_logits(session: Session, ids: Array) -> Array:
    """Logits (n, V) of a bundle after each of the tokens (n,)."""
    session.model.decoder.reset()
    return session.model.decoder.logits_of(session.model.embedding(ids))


def nll(logits: Array, targets: Array) -> float:
    """Summed −log softmax(logits)[target] of rows (n, vocab)."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    spread = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    return float((spread - wide[np.arange(len(targets)), targets]).sum())


def print_losses(losses: Sequence[TextLoss], console: Console) -> None:
    """Print one line per model; the last column compares with the first line."""
    table = Table("model", "perplexity", "against the first")
    for loss in losses:
        ratio = loss.perplexity / losses[0].perplexity - 1
        table.add_row(loss.name, f"{loss.perplexity:.4f}", f"{100 * ratio:+.2f} %")
    console.print(table)


def write_losses(losses: Sequence[TextLoss], path: Path) -> None:
    """Write the figures as JSON."""
    rows = [asdict(loss) | {"perplexity": loss.perplexity} for loss in losses]
    write_json(path, rows)
