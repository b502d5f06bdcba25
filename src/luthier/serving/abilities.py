"""What some engines can do beside answering conversations, one small protocol each. An engine without one is refused what needs it.

Not here: the seam that every engine keeps (engine).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from luthier.models.call_form import CallForm
from luthier.serving.engine import always_wanted


@runtime_checkable
class Continues(Protocol):
    """Goes on from plain text or token ids: honours `Request.prompt`."""

    continues_text: bool
    """False where this model writes no text of its own: it has a head."""


@runtime_checkable
class CallsFunctions(Protocol):
    """Shows tools to the model: honours `Request.tools` and `Request.must_call`."""

    def call_form(self) -> CallForm | None:
        """How this model writes a call; None where it is not as JSON, and then no call can be demanded. Raises Refused where the
        model knows no tools."""


@dataclass(frozen=True)
class Vectors:
    """One for each text, each of length 1; `tokens` of all texts together."""

    of: tuple[tuple[float, ...], ...]
    tokens: int


@runtime_checkable
class Embeds(Protocol):
    """Turns texts into vectors."""

    def embed(
        self, texts: Sequence[str | tuple[int, ...]], unwanted: Callable[[], bool] = always_wanted
    ) -> Vectors:
        """Raises Refused for a text that is longer than the context, Cancelled once `unwanted` says True."""
