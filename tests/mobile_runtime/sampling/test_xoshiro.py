from itertools import islice

import numpy as np

from mobile_runtime.sampling.xoshiro import Xoshiro256StarStar, splitmix64

# Outputs of the authors' C code: splitmix64.c from 1234567, xoshiro256starstar.c from 1, 2, 3, 4.
SPLITMIX = [
    *(6457827717110365317, 3203168211198807973, 9817491932198370423),
    *(4593380528125082431, 16408922859458223821),
]
XOSHIRO = [
    *(11520, 0, 1509978240, 1215971899390074240, 1216172134540287360),
    *(607988272756665600, 16172922978634559625, 8476171486693032832),
    *(10595114339597558777, 2904607092377533576),
]


def test_splitmix_equals_the_published_code():
    assert list(islice(splitmix64(1234567), 5)) == SPLITMIX


def test_xoshiro_equals_the_published_code():
    generator = Xoshiro256StarStar([1, 2, 3, 4])
    assert [generator.next_word() for _ in range(10)] == XOSHIRO


def test_seed_is_expanded_by_splitmix():
    by_hand = Xoshiro256StarStar(SPLITMIX[:4])
    seeded = Xoshiro256StarStar.seeded(1234567)
    assert [by_hand.next_word() for _ in range(5)] == [seeded.next_word() for _ in range(5)]


def test_fractions_are_the_upper_53_bits():
    words, fractions = Xoshiro256StarStar.seeded(5), Xoshiro256StarStar.seeded(5)
    for _ in range(100):
        assert fractions.next_fraction() == (words.next_word() >> 11) / 2**53


def test_fractions_are_uniform():
    generator = Xoshiro256StarStar.seeded(0)
    drawn = np.array([generator.next_fraction() for _ in range(40_000)])
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = np.bincount((drawn * 16).astype(int), minlength=16)
    # Chi-squared with 15 degrees of freedom exceeds 45 once in ten thousand.
    assert ((counts - 2500) ** 2 / 2500).sum() < 45
