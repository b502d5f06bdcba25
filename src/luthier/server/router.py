"""The one place that decides which ServedModel answers a request.

    request ──▶ Router.take(name, asker) ──▶ Lease: the model it keeps to its end ──▶ Lease.end(ending)

A request keeps the model that it began with, whatever is swapped meanwhile.
`Fixed` serves a mapping as it stands. Not here: rollouts (following).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from luthier.server.errors import ApiError
from luthier.server.served import ServedModel
from luthier.serving.engine import Chunk, Request


@dataclass(frozen=True)
class Asker:
    """Who asks: the key, the `user` of the body, and what the header x-luthier-variant says. `drawn` in 0..1 says where a request
    stands that names no user."""

    key_id: str
    user: str | None = None
    variant: str | None = None
    drawn: float = field(default_factory=random.random)
    caller: Any = None
    """Whose key it is, where a server knows persons and projects."""


@dataclass(frozen=True)
class Again:
    """What may be asked once more of another version, as the model saw it, and how its chunks become an answer: guards and calls, as
    they were for the client. `read` may take time of the given model's threads."""

    request: Request
    read: Callable[[ServedModel, AsyncGenerator[Chunk, None]], AsyncGenerator[Chunk, None]] = (
        lambda model, chunks: chunks
    )


@dataclass(frozen=True)
class Ending:
    """How a request ended. `seconds`: in the engine, from the slot to the last chunk. `again`: None where it was one of several or no
    text; of a failed answer it is there too, for the version beside it may fail on the same."""

    failed: bool
    seconds: float
    refused: bool = False
    sha256: str | None = None
    again: Again | None = None


class Lease(Protocol):
    """`headers` go onto the response beside x-luthier-release."""

    @property
    def model(self) -> ServedModel: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def end(self, ending: Ending | None) -> None:
        """Nothing more is asked of the model for this request. None: it never answered (refused, turned away, hung up), which says
        nothing of it. Only the first call counts; the envelope around every request makes one, so that no lease is left open."""


class Router(Mapping[str, ServedModel], ABC):
    """As a mapping: what answers each name to whoever is not told otherwise. Called on the event loop; nothing here waits."""

    @abstractmethod
    def take(self, name: str, asker: Asker) -> Lease:
        """Raises ApiError 404 for a name that is not served, 400 for a variant that there cannot be."""

    async def lease(self, name: str, asker: Asker, wait_s: float | None = None) -> Lease:
        """`take`, by a router that may have to load the model first: then for at most `wait_s` seconds. Raises ApiError."""
        return self.take(name, asker)

    async def listing(self, asker: Asker) -> list[dict[str, Any]]:
        """The models that this asker may ask, as GET /v1/models shows them."""
        return [model.plain() for model in self.values()]

    async def described(self, name: str, asker: Asker) -> dict[str, Any]:
        """One of them. Raises ApiError 404."""
        model = self.get(name)
        if model is None:
            raise unknown(name)
        return model.plain()

    @abstractmethod
    def loaded(self) -> Iterator[tuple[str, ServedModel]]:
        """(name, model) of every model in memory, several of one name where a version is tried beside the one that answers."""

    @abstractmethod
    def close(self) -> None:
        """No more requests come."""


@dataclass(frozen=True)
class Held:
    """A lease of a model that nobody swaps."""

    model: ServedModel
    headers: Mapping[str, str] = field(default_factory=dict)

    def end(self, ending: Ending | None) -> None:
        pass


class Fixed(Router):
    """A mapping, looked up at each request, so replacing an entry moves a name to another engine."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def __getitem__(self, name: str) -> ServedModel:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def take(self, name: str, asker: Asker) -> Lease:
        model = self._models.get(name)
        if model is None:
            raise unknown(name)
        return Held(model)

    def loaded(self) -> Iterator[tuple[str, ServedModel]]:
        return iter(list(self._models.items()))

    def close(self) -> None:
        for model in self._models.values():
            model.threads.shutdown(wait=False, cancel_futures=True)


def unknown(name: str) -> ApiError:
    message = f"The model {name[:200]!r} is not served here; GET /v1/models lists those that are."
    return ApiError(404, "model_not_found", message, param="model")
