"""Tokens that the Swift sampler draws against those of the Python runtime."""

import json

import numpy as np

from mobile_runtime.sampling.sampling import Sampler

SETTINGS = [  # temperature, top_k, top_p, repetition_penalty
    (0.7, 100, 0.8, 1.03),  # published, without thinking
    (0.7, 50, 1.0, 1.0),  # published, with thinking
    (1.0, 0, 1.0, 1.0),
    (1.7, 0, 0.95, 1.2),
    (0.6, 20, 0.95, 1.0),
    (0.0, 100, 0.8, 1.1),
    (1e-3, 5, 0.5, 1.5),
]


def _tokens(logits, settings, seed):
    sampler, tokens = Sampler(*settings, seed), []
    for row in logits:
        tokens.append(sampler.next_token(row, tokens))
    return tokens


def _compare(minicpmv, tmp_path, logits, cases):
    logits.astype("<f4").tofile(tmp_path / "logits.raw")
    names = ("temperature", "top_k", "top_p", "repetition_penalty")
    listed = [
        {"logits": f"{tmp_path}/logits.raw", "vocab_size": logits.shape[1], "seed": seed}
        | dict(zip(names, settings, strict=True))
        for settings, seed in cases
    ]
    (tmp_path / "cases.json").write_text(json.dumps(listed))
    got = minicpmv("sample", tmp_path / "cases.json").splitlines()
    expected = [_tokens(logits, settings, seed) for settings, seed in cases]
    assert [json.loads(line) for line in got] == expected


def test_1000_draws_are_equal_under_every_setting(minicpmv, tmp_path):
    logits = np.random.default_rng(0).normal(0, 3, (1000, 2000)).astype(np.float32)
    cases = [(settings, seed) for settings in SETTINGS for seed in (0, 2**64 - 1)]
    _compare(minicpmv, tmp_path, logits, cases)


def test_draws_from_the_whole_vocabulary_are_equal(minicpmv, tmp_path):
    logits = np.random.default_rng(1).normal(0, 2, (20, 151_748)).astype(np.float32)
    _compare(minicpmv, tmp_path, logits, [(settings, 7) for settings in SETTINGS])


def test_ties_and_masked_tokens_are_treated_alike(minicpmv, tmp_path):
    logits = np.random.default_rng(2).integers(-2, 3, (1000, 40)).astype(np.float32)
    logits[logits == -2] = -np.inf
    _compare(minicpmv, tmp_path, logits, [(settings, 1) for settings in SETTINGS])
