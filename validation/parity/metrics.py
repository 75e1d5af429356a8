"""Distances of a candidate from a reference, in plain numpy."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def psnr(candidate: Array, reference: Array) -> float:
    """20·log10(max|reference| / rmse) in dB; infinite if they are equal."""
    error = candidate.astype(np.float64) - reference
    rmse = float(np.sqrt(np.mean(np.square(error))))
    if rmse == 0:
        return float("inf")
    with np.errstate(divide="ignore"):
        return float(20 * np.log10(np.abs(reference).max() / rmse))


def snr(candidate: Array, reference: Array) -> float:
    """20·log10(root mean square of reference / rmse) in dB; infinite if they are equal."""
    error = candidate.astype(np.float64) - reference
    rmse = float(np.sqrt(np.mean(np.square(error))))
    if rmse == 0:
        return float("inf")
    with np.errstate(divide="ignore"):
        signal = np.sqrt(np.mean(np.square(reference.astype(np.float64))))
        return float(20 * np.log10(signal / rmse))


def cosine(candidate: Array, reference: Array) -> float:
    """Cosine of the angle between the two as vectors."""
    a, b = candidate.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else float(np.array_equal(a, b))


def kl_divergence(candidate: Array, reference: Array) -> float:
    """Mean over rows of KL(reference ‖ candidate) between softmaxes, in nats: (n, V) each."""
    p, q = log_softmax(reference), log_softmax(candidate)
    return float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))


def top_agreement(candidate: Array, reference: Array, k: int) -> float:
    """Share of rows whose best reference token is among the candidate's k best."""
    best = reference.argmax(-1)
    top = np.argpartition(-candidate, k - 1, axis=-1)[:, :k]
    return float(np.mean(np.any(top == best[:, None], axis=1)))


def log_softmax(logits: Array) -> Array:
    """Logarithms of the softmax over the last axis, float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
