"""What an embedder is: texts ─▶ vectors of whole numbers from -127 to 127, int8 [n, size], all zero for a text without content.

Whole numbers make likeness exact: the product of two such vectors is a sum of whole numbers, which comes out the same in
whatever order a processor adds (in float32 up to size 1,040, in float64 beyond). Their cosine differs from that of the vectors
they stand for by about 0.001. What an embedder says of a text must not depend on the texts beside it.

Not here: neighbours (rules/semantic_duplicates), and models that run on a GPU: serve one and name its `endpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from luthier.core.part import PartSpec
from luthier.core.spec import Spec

if TYPE_CHECKING:
    import numpy as np

EXACT_IN_FLOAT32 = 1040  # 127 * 127 * 1040 is below 2^24


class Embedder(Protocol):
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """int8 [n, size]. Raises DataError where it cannot."""


@dataclass(frozen=True)
class EmbedderKind:
    """A line of the plugin table: `make` loads it and raises MissingPart or DataError where it cannot; `mark` gives a digest of
    what the vectors depend on beside the settings, None where nothing."""

    name: str
    about: str
    spec: type[Spec]
    make: Callable[[Any], Embedder]
    mark: Callable[[Any], str | None] = lambda settings: None


class EmbedderSpec(PartSpec):
    """What makes vectors of texts; written `hashed` or `{endpoint: {url: ..., model: ...}}`."""

    kind = "embedder"
    example = "{endpoint: {url: 'http://localhost:8000/v1', model: NAME}}"

    @classmethod
    def hashed(cls) -> EmbedderSpec:
        return cls.model_validate("hashed")

    def made(self) -> Embedder:
        """Once per process."""
        return _made(self.model_dump_json())

    def mark(self) -> str | None:
        told: str | None = self.load().mark(self.settings)
        return told


@lru_cache(maxsize=4)
def _made(told: str) -> Embedder:
    spec = EmbedderSpec.model_validate_json(told)
    made: Embedder = spec.load().make(spec.settings)
    return made


def quantised(vectors: np.ndarray) -> np.ndarray:
    """The nearest vectors of whole numbers whose largest is 127, int8 [n, size].

    >>> import numpy as np
    >>> quantised(np.array([[0.5, -1.0], [0.0, 0.0]])).tolist()
    [[64, -127], [0, 0]]
    """
    import numpy as np

    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    scale = np.divide(127.0, largest, out=np.zeros(largest.shape), where=largest > 0)
    return np.rint(vectors * scale).astype(np.int8)


def floats(vectors: np.ndarray) -> np.ndarray:
    """The same whole numbers as floats in which products are exact."""
    import numpy as np

    return vectors.astype(np.float32 if vectors.shape[1] <= EXACT_IN_FLOAT32 else np.float64)


def lengths(vectors: np.ndarray) -> np.ndarray:
    """float64 [n]"""
    import numpy as np

    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each of int8 [n, size] with each of int8 [m, size], float64 [n, m]; 0 where either is zero."""
    import numpy as np

    both = lengths(a)[:, None] * lengths(b)[None, :]
    dots = (floats(a) @ floats(b).T).astype(np.float64)
    return np.divide(dots, both, out=np.zeros_like(dots), where=both > 0)
