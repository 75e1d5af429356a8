import numpy as np
import pytest

from mobile_runtime.errors import InputError
from mobile_runtime.sampling.sampling import Sampler, candidates, penalize

torch = pytest.importorskip("torch", reason="computes Hugging Face's published formulas")

CASES = [
    (temperature, top_k, top_p)
    for temperature in (0.6, 1.0, 1.7)
    for top_k in (0, 1, 20, 100)
    for top_p in (0.05, 0.8, 0.95, 1.0)
]


def _logits(seed, size=1000):
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


def _hugging_face(scores, generated, penalty, temperature, top_k, top_p):
    """Probabilities after generate()'s processors, written from their documentation."""
    scores = torch.tensor(scores, dtype=torch.float64)[None]
    if len(generated):
        ids = torch.tensor(generated)[None]
        seen = torch.gather(scores, 1, ids)
        scores = scores.scatter(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))
    scores = scores / temperature
    if top_k:
        kth = torch.topk(scores, min(top_k, scores.shape[-1]))[0][..., -1, None]
        scores = scores.masked_fill(scores < kth, -float("inf"))
    if top_p < 1:
        ordered, indices = torch.sort(scores, descending=False)
        remove = ordered.softmax(dim=-1).cumsum(dim=-1) <= (1 - top_p)
        remove[..., -1:] = False
        scores = scores.masked_fill(remove.scatter(1, indices, remove), -float("inf"))
    return scores.softmax(dim=-1)[0].numpy()


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), CASES)
def test_candidates_are_those_of_hugging_face(temperature, top_k, top_p):
    generated = [3, 3, 5, 900, 5]
    for seed in range(5):
        expected = _hugging_face(_logits(seed), generated, 1.03, temperature, top_k, top_p)
        scores = penalize(_logits(seed), generated, 1.03)
        ids, probabilities = candidates(scores, temperature, top_k, top_p)
        assert sorted(ids.tolist()) == np.flatnonzero(expected).tolist()
        ours = probabilities / probabilities.sum()
        np.testing.assert_allclose(ours, expected[ids], rtol=1e-5)


def test_penalty_touches_each_generated_token_once():
    scores = np.array([2, -2, 0, 5], np.float32)
    assert penalize(scores, [0, 0, 1, 2], 2.0).tolist() == [1, -4, 0, 5]
    assert scores.tolist() == [2, -2, 0, 5]


def test_temperature_zero_takes_the_best_token_after_the_penalty():
    sampler = Sampler(0, 100, 0.8, 1.5, seed=0)
    scores = np.array([1.0, 3.0, 2.5], np.float32)
    assert sampler.next_token(scores, []) == 1
    assert sampler.next_token(scores, [1]) == 2


def test_tiny_top_p_keeps_the_best_token():
    assert candidates(np.array([1, 3, 2], np.float32), 1, 0, 1e-17)[0].tolist() == [1]


def test_top_p_drops_what_sums_to_exactly_the_rest():
    ids, probabilities = candidates(np.zeros(4, np.float32), 1, 0, 0.75)
    assert len(ids) == 3 and probabilities.tolist() == [0.25] * 3


def test_top_k_keeps_ties():
    assert sorted(candidates(np.array([1, 3, 3, 2], np.float32), 1, 1, 1.0)[0]) == [1, 2]


def test_draws_follow_the_probabilities():
    expected = _hugging_face(_logits(0, 6), [], 1.0, 1.0, 4, 0.95)
    sampler = Sampler(1.0, 4, 0.95, 1.0, seed=1)
    drawn = [sampler.next_token(_logits(0, 6), []) for _ in range(5000)]
    # 5 standard deviations of a frequency over 5,000 draws are at most 0.036.
    np.testing.assert_allclose(np.bincount(drawn, minlength=6) / 5000, expected, atol=0.036)
    assert not (set(drawn) - set(np.flatnonzero(expected).tolist()))


def test_seed_fixes_the_draws():
    def draws(seed):
        sampler = Sampler(1.0, 0, 1.0, 1.0, seed)
        return [sampler.next_token(_logits(2), []) for _ in range(20)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)


def test_every_sampler_without_a_seed_draws_differently():
    def draws():
        sampler = Sampler(1.0, 0, 1.0, 1.0)
        return [sampler.next_token(_logits(2), []) for _ in range(20)]

    assert draws() != draws()


def test_masked_tokens_are_never_drawn():
    scores = np.full(50, -np.inf, np.float32)
    scores[[4, 9]] = 0
    sampler = Sampler(0.7, 10, 0.9, 1.03, seed=3)
    assert {sampler.next_token(scores, [4, 7]) for _ in range(200)} <= {4, 9}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ((-0.1, 0, 1.0, 1.0), "temperature"),
        ((float("nan"), 0, 1.0, 1.0), "temperature"),
        ((1e-40, 0, 1.0, 1.0), "temperature is 1e-40; it must be 0 .* or 0.0001 to 10000"),
        ((1e300, 0, 1.0, 1.0), "temperature"),
        ((1.0, -1, 1.0, 1.0), "top_k"),
        ((1.0, 0, 0.0, 1.0), "top_p"),
        ((1.0, 0, 1.1, 1.0), "top_p"),
        ((1.0, 0, 1.0, 0.0), "repetition_penalty"),
        ((1.0, 0, 1.0, 1e308), "repetition_penalty"),
        ((1.0, 0, 1.0, 1.0, -1), "seed"),
        ((1.0, 0, 1.0, 1.0, 1 << 64), "seed"),
    ],
)
def test_impossible_setting_is_named(settings, name):
    with pytest.raises(InputError, match=name):
        Sampler(*settings)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-4, 1e4])
@pytest.mark.parametrize("penalty", [1e-4, 1e4])
def test_settings_at_their_bounds_draw_a_token(temperature, penalty):
    logits = np.array([-300.0, -1.0, 0.0, 2.0, 300.0], np.float32)
    sampler = Sampler(temperature, 0, 1.0, penalty, seed=0)
    assert {sampler.next_token(logits, [0, 4]) for _ in range(50)} <= set(range(5))
