"""Guesses out of the text: which they are, and that they are run only where that saves time."""

import numpy as np
import pytest

from mobile_runtime.sampling.lookup import PromptLookup


def steps(prompt, answer, cost):
    """What an answer takes, in steps of one token, if a run of n guesses takes `cost(n)`."""
    guesses, total = PromptLookup(prompt), 0.0
    for n, token in enumerate(answer):
        if guesses.take(token) is None:
            ahead = guesses.guess(len(answer) - n - 1)
            took = cost(len(ahead)) if ahead else 1.0
            guesses.keep(ahead, np.zeros((1 + len(ahead), 1)), took)
            total += took
    return total, guesses


def flat(n):
    """A block of fixed length, as Core ML's prefill."""
    return 3.0


def linear(n):
    return 1.5 + 0.2 * n


def useless(n):
    return n + 3.0


def after(text, *tokens):
    """The guesser after a text, a step, and an answer's first tokens."""
    guesses = PromptLookup(text)
    guesses.keep([], np.zeros((1, 1)), 1.0)
    for token in tokens:
        assert guesses.guess(9) == []
        assert guesses.take(token) is None
    return guesses


def test_guesses_continue_the_last_place_that_the_text_shares():
    text = [*range(1, 15), 50, *range(1, 4), 60]
    guesses = after(text, *range(4, 13))  # three to find the place, six that it predicts
    assert guesses.guess(9) == [13, 14, 50, 1]
    assert guesses.guess(3) == [13, 14, 50]


def test_pictures_are_not_guessed():
    guesses = after([*range(1, 12), -1, -1, 9, 50], *range(1, 10))
    assert guesses.guess(9) == [10, 11]


def test_logits_are_those_of_the_guess_until_one_is_wrong():
    guesses = after([*range(20), 50], *range(9))
    ahead = guesses.guess(4)
    guesses.keep(ahead, np.arange(5)[:, None], 1.0)
    assert [guesses.take(9), guesses.take(10)] == [[1], [2]]
    assert guesses.take(99) is None and guesses.take(12) is None
    assert (guesses.drafted, guesses.accepted) == (4, 2)


@pytest.mark.parametrize("cost", [flat, linear])
def test_copies_take_a_fraction(cost):
    prompt = np.random.default_rng(0).integers(1000, size=400).tolist()
    total, guesses = steps(prompt, prompt, cost)
    assert total < 0.5 * len(prompt)
    assert guesses.accepted > 0.8 * len(prompt)


@pytest.mark.parametrize("cost", [flat, linear, useless])
@pytest.mark.parametrize("seed", range(5))
def test_other_texts_lose_next_to_nothing(cost, seed):
    """Of few words, so that short stretches come again by chance."""
    rng = np.random.default_rng(seed)
    words = [rng.integers(50, size=int(size)).tolist() for size in rng.integers(2, 7, size=40)]
    text = [token for n in rng.integers(40, size=400) for token in words[n]]
    total, _ = steps(text[:500], text[500:], cost)
    assert total < len(text[500:]) / 0.97


def test_copies_that_cost_more_than_they_save_lose_next_to_nothing():
    prompt = np.random.default_rng(0).integers(1000, size=600).tolist()
    total, _ = steps(prompt, prompt, useless)
    assert total < len(prompt) / 0.97
