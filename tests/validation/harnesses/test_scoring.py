"""Likelihoods and answers outside of chats: PyTorch's on the same tokens, whatever came before."""

import numpy as np
import pytest
import torch

from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.sampling.sampling import Sampler
from validation.harnesses.scoring import TextScorer
from validation.quality.measure import reference_logits
from validation.quality.passages import Passage
from validation.reference.reference import Reference
from validation.sources import open_checkpoint

GREEDY = Sampler(temperature=0, top_k=0, top_p=1, repetition_penalty=1)


@pytest.fixture(scope="module")
def scorer(scored_bundle):
    return TextScorer(scored_bundle, EngineOptions(precision="fp32", threads=1))


@pytest.fixture(scope="module")
def likelihoods(random_checkpoint):
    """likelihoods(tokens) -> PyTorch's log-probabilities (n, V) after each token."""
    source = open_checkpoint(str(random_checkpoint))
    reference = Reference(source.config, source.checkpoint)

    def run(tokens):
        ids, empty = np.array(tokens), np.arange(len(tokens))
        logits = reference_logits(reference, Passage(ids, empty, ids))
        return torch.log_softmax(torch.tensor(np.asarray(logits, np.float64)), -1).numpy()

    return run


def tokens(count, seed=0):
    return np.random.default_rng(seed).integers(250, size=count).tolist()


@pytest.mark.parametrize(("before", "after"), [(1, 1), (5, 3), (63, 2), (64, 1), (100, 28)])
def test_loglikelihoods_are_pytorch_s(scorer, likelihoods, before, after):
    context, continuation = tokens(before), tokens(after, 1)
    rows = likelihoods(context + continuation)[before - 1 : -1]
    total, greedy = scorer.loglikelihood(context, continuation)
    wanted = sum(row[token] for row, token in zip(rows, continuation, strict=True))
    assert total == pytest.approx(wanted, abs=1e-3)
    assert greedy == (rows.argmax(-1) == continuation).all()


def test_the_most_probable_continuation_is_called_greedy(scorer, likelihoods):
    context = tokens(20)
    best = int(likelihoods(context)[-1].argmax())
    assert scorer.loglikelihood(context, [best])[1]
    assert not scorer.loglikelihood(context, [best, 0 if best else 1, 2])[1]


def test_a_figure_does_not_depend_on_what_was_asked_before(scorer):
    long, other = tokens(110), tokens(90, 2)
    first = scorer.loglikelihood(long[:100], long[100:])
    scorer.loglikelihood(long[:70] + other[:20], [3])  # shares a block
    scorer.loglikelihood(other, [1])  # shares none
    assert scorer.loglikelihood(long[:100], long[100:]) == first
    text = scorer.generate(long[:80], GREEDY, 6, [])
    scorer.generate(other, GREEDY, 4, [])
    assert scorer.generate(long[:80], GREEDY, 6, []) == text
    assert scorer.loglikelihood(long[:100], long[100:]) == first


def test_a_long_context_loses_its_beginning(scorer):
    context = tokens(300)
    cut = scorer.loglikelihood(context, [7, 8])
    assert cut == scorer.loglikelihood(context[-127:], [7, 8])
    assert cut != scorer.loglikelihood(context[-126:], [7, 8])


def test_answers_are_pytorch_s_and_end_before_the_stop(scorer, likelihoods):
    read, wanted = tokens(30), []
    for _ in range(8):
        wanted.append(int(likelihoods(read + wanted)[-1].argmax()))
    stop = scorer.session.manifest.prompt.stop_token_ids
    assert not set(stop) & set(wanted)
    text = scorer.session.tokenizer.decode(wanted)
    assert scorer.generate(read, GREEDY, 8, []) == text
    end = text[3:5]
    assert scorer.generate(read, GREEDY, 8, ["never", end]) == text.split(end)[0]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: s.loglikelihood([], [1]), "at most 128"),
        (lambda s: s.loglikelihood([1], [1] * 129), "a continuation of 129 tokens"),
        (lambda s: s.generate([], GREEDY, 4, []), "after at least one"),
        (lambda s: s.generate([1], GREEDY, 128, []), "ask for 1 to 127"),
    ],
)
def test_what_cannot_be_scored_is_refused(scorer, call, said):
    with pytest.raises(InputError, match=said):
        call(scorer)


def test_a_chat_is_read_as_the_session_reads_it(scorer):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Three?"},
    ]
    wanted = scorer.session.prepare(messages).encoded.text
    assert scorer.chat_text(messages, opens_answer=True, thinking=False) == wanted
    begun = [*messages, {"role": "assistant", "content": "It is"}]
    assert scorer.chat_text(begun, opens_answer=False, thinking=False) == wanted + "It is"
    with pytest.raises(InputError, match="spells the special token <image>"):
        scorer.chat_text([{"role": "user", "content": "a <image>"}], True, False)
