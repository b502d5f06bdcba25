"""hashed: vectors of spelling, made of nothing but the text. Needs no download, and knows no meaning.

    text ─▶ words ─▶ every 3, 4 and 5 bytes of a word ─▶ each adds 1 or -1 in 4 of the coordinates ─▶ words summed up

Texts of the same words, endings or parts of words are near; paraphrases in other words are not. It has no vocabulary, so it
cannot know which words are frequent: long words weigh more than short ones in their place, and a word that stands there n
times weighs √n. Two English texts of nothing in common have a cosine of about 0.1 to 0.3.

The n-grams are those of fastText (Bojanowski et al., 2017), the projection is a sparse Johnson-Lindenstrauss transform (Kane
and Nelson, 2014). Everything is done in whole numbers, or in steps that IEEE 754 rounds in one way only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from luthier.core.spec import Spec

from .embedder import EmbedderKind

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.words import Words

AT_ONCE = 1 << 14  # words whose vectors are added up together
LONGEST = 8  # bytes of a word beyond which it weighs no more
SHARES = 4
UNIT = 64


class HashedSpec(Spec):
    size: int = Field(default=256, ge=32, le=1024)
    """How many coordinates a vector has; more tell finer differences and take more memory."""


class Hashed:
    def __init__(self, settings: HashedSpec) -> None:
        self._size = settings.size

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """int8 [n, size]"""
        import numpy as np

        out = np.zeros((len(texts), self._size), np.int8)
        start = 0
        while start < len(texts):
            end, n = start, 0
            while end < len(texts) and (end == start or n < 1_000_000):  # characters at once
                n += len(texts[end])
                end += 1
            out[start:end] = self._embed(texts[start:end])
            start = end
        return out

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        from luthier.data.vectors import quantised
        from luthier.data.words import words_in

        words = words_in(list(texts))
        _, place, which = np.unique(words.hashes, return_index=True, return_inverse=True)
        text = np.repeat(np.arange(len(texts)), words.counts())
        pairs, times = np.unique(text * max(len(place), 1) + which, return_counts=True)
        text, which = np.divmod(pairs, max(len(place), 1))
        length = np.minimum((words.end - words.start)[place], LONGEST)
        weight = np.rint(length[which] ** 2 * np.sqrt(times))
        vectors = self._words(words, place)
        out = np.zeros((len(texts), self._size))
        edges = np.searchsorted(text, np.arange(len(texts) + 1))
        start = 0
        while start < len(texts):
            end = max(int(np.searchsorted(edges, edges[start] + AT_ONCE, "right")) - 1, start + 1)
            low, high = edges[start], edges[end]
            full = np.flatnonzero(np.diff(edges[start : end + 1]))
            if len(full):
                told = vectors[which[low:high]] * weight[low:high, None]
                out[start + full] = np.add.reduceat(told, edges[start:end][full] - low, axis=0)
            start = end
        return quantised(out)

    def _words(self, words: Words, place: np.ndarray) -> np.ndarray:
        """A vector for each of the words at `place`, float64 of whole numbers [U, size]."""
        import numpy as np

        from luthier.data.words import STEP, mix

        lengths = words.end[place] - words.start[place]
        ends = np.cumsum(lengths + 2)
        owner = np.repeat(np.arange(len(place)), lengths + 2)
        nth = np.arange(len(owner)) - np.repeat(ends - lengths - 2, lengths + 2)
        inner = (nth > 0) & (nth <= lengths[owner])
        told = np.where(nth == 0, 1, 2).astype(np.uint64)  # what begins and ends a word
        told[inner] = words.told[words.start[place][owner[inner]] + nth[inner] - 1]
        out = np.zeros(len(place) * self._size)
        grams = np.zeros(len(place))
        for n in (3, 4, 5):
            begin = np.flatnonzero(nth + n <= lengths[owner] + 2)
            hashes = np.full(len(begin), n, np.uint64)
            for k in range(n):
                hashes = hashes * STEP + told[begin + k]
            hashes = mix(hashes)
            grams += np.bincount(owner[begin], minlength=len(place))
            for k in range(SHARES):
                drawn = hashes >> np.uint64(16 * k)
                where = (drawn & np.uint64(0x7FFF)).astype(np.int64) * self._size >> 15
                sign = 1.0 - 2.0 * ((drawn >> np.uint64(15)) & np.uint64(1)).astype(np.float64)
                out += np.bincount(owner[begin] * self._size + where, weights=sign, minlength=len(out))
        out = out.reshape(-1, self._size)
        return np.rint(UNIT * out / np.sqrt(np.maximum(grams, 1))[:, None])


hashed = EmbedderKind(
    "hashed", "Spelling: pieces of words, hashed. Built in; knows no meaning.", HashedSpec, Hashed
)
