"""Random numbers that follow from what they are for: the same on every machine, engine and version of a library.

A `Draw` is a stream of its own for one row, rule and purpose; what it gives does not depend on any other row. The generator
is SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), begun with a BLAKE2b hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")
_MASK = (1 << 64) - 1


class Draw:
    """Begun with whatever names the purpose.

    >>> Draw("a", 1).below(100) == Draw("a", 1).below(100), Draw("a", 1).below(10**9) == Draw("a", 2).below(10**9)
    (True, False)
    """

    def __init__(self, *purpose: object) -> None:
        named = "\0".join(map(str, purpose))
        self._state = int.from_bytes(blake2b(named.encode(), digest_size=8).digest(), "big")

    def bits(self) -> int:
        """64 of them."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def share(self) -> float:
        """In [0, 1)."""
        return (self.bits() >> 11) * 2.0**-53

    def below(self, n: int) -> int:
        """In 0 .. n - 1."""
        return (self.bits() * n) >> 64

    def one_of(self, some: Sequence[T]) -> T:
        return some[self.below(len(some))]

    def places(self, n: int, k: int) -> list[int]:
        """k different numbers below n, sorted.

        >>> len(set(Draw("x").places(10, 4))), Draw("x").places(3, 3)
        (4, [0, 1, 2])
        """
        chosen: set[int] = set()
        for top in range(n - k, n):  # Floyd's, in Bentley and Floyd 1987
            at = self.below(top + 1)
            chosen.add(top if at in chosen else at)
        return sorted(chosen)
