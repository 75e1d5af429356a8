"""The random numbers of the sampler: xoshiro256**, seeded by SplitMix64.

Both are by Blackman and Vigna (prng.di.unimi.it), small enough to be the same in every language: a
seed gives the same draws here and on the phone.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

MAX_SEED = (1 << 64) - 1
_MASK = MAX_SEED


def splitmix64(seed: int) -> Iterator[int]:
    """The endless stream of 64-bit numbers that `seed` starts."""
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        yield mixed ^ (mixed >> 31)


def _rotated(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (64 - bits))) & _MASK


class Xoshiro256StarStar:
    """The generator; its state is four words of 64 bits, not all zero."""

    def __init__(self, state: Sequence[int]) -> None:
        self._state = tuple(state)
        assert len(self._state) == 4 and any(self._state)

    @classmethod
    def seeded(cls, seed: int | None) -> Xoshiro256StarStar:
        """Start from four words of SplitMix64; without a seed, from the system's entropy."""
        words = splitmix64(secrets.randbits(64) if seed is None else seed)
        return cls([next(words) for _ in range(4)])

    def next_word(self) -> int:
        """The next 64 random bits."""
        a, b, c, d = self._state
        word = (_rotated((b * 5) & _MASK, 7) * 9) & _MASK
        c, d = c ^ a, d ^ b
        self._state = (a ^ d, b ^ c, c ^ ((b << 17) & _MASK), _rotated(d, 45))
        return word

    def next_fraction(self) -> float:
        """A double from [0, 1): the upper 53 bits of the next word, divided by 2⁵³."""
        return (self.next_word() >> 11) * 2.0**-53
