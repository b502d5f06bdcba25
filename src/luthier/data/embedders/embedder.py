"""What an embedder is: texts ─▶ vectors of whole numbers from -127 to 127, int8 [n, size], all zero for a text without content.

What an embedder says of a text must not depend on the texts beside it.

Not here: what is done with vectors (data/vectors, data/neighbours), and models that run on a GPU: serve one and name its
`endpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from luthier.core.part import PartSpec
from luthier.core.spec import Spec
from luthier.data.egress import EgressSpec

if TYPE_CHECKING:
    import numpy as np


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
        return _made(self)

    @property
    def sends(self) -> str | None:
        """The host that texts leave this machine for; None where they stay."""
        told = self.settings
        return told.host if isinstance(told, EgressSpec) and told.away else None

    def mark(self) -> str | None:
        told: str | None = self.load().mark(self.settings)
        return told


@lru_cache(maxsize=4)
def _made(spec: EmbedderSpec) -> Embedder:
    made: Embedder = spec.load().make(spec.settings)
    return made
