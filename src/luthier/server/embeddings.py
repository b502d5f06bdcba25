"""`POST /v1/embeddings`: vectors of texts, where the served model can make them.

A vector is the mean of the model's last hidden states over the text's tokens, of length 1: no template, no instruction. A model that
was trained to write was never trained for that; docs/serving.md says what to expect. `dimensions` is refused.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import threading
import time
from typing import Any, Literal

from pydantic import Field
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from luthier.core.artifact import digest_of
from luthier.server.asking import LATE, Asking
from luthier.server.completions import Prompt, prompts_of
from luthier.server.errors import ApiError, from_engine
from luthier.server.exchange import Exchange, hash_text
from luthier.server.parts import Off, Wire, checked, supported
from luthier.server.router import Ending, Lease
from luthier.server.run import ClientGone, while_connected
from luthier.serving.abilities import Embeds, Vectors
from luthier.serving.engine import Refused, Request

UNSUPPORTED: Off = {"dimensions": (None,)}


class EmbeddingBody(Wire):
    model: str = Field(min_length=1, max_length=256)
    """A served name, as `GET /v1/models` lists them."""
    input: Prompt
    """A text, token ids, or a list of either."""
    encoding_format: Literal["float", "base64"] | None = None
    """Numbers, or their little-endian 32-bit bytes as base64."""
    user: str | None = Field(default=None, max_length=512)
    """Who asks, in your terms; recorded as a hash."""


def parse_embedding(value: dict[str, Any]) -> EmbeddingBody:
    """The checked body. Raises ApiError 400 that names the field."""
    return checked(EmbeddingBody, supported(value, UNSUPPORTED))


class Embedding(Response):
    """A response that makes its vectors when it is sent."""

    def __init__(self, body: EmbeddingBody, lease: Lease, id: str, asking: Asking) -> None:
        super().__init__()
        self._body, self._lease, self._id, self._asking = body, lease, id, asking
        self._model = model = lease.model
        self._held_from_s: float | None = None
        self._ending: Ending | None = None
        if not isinstance(model.engine, Embeds):
            raise ApiError(
                400, "unsupported_model", f"The engine of {model.name!r} gives no vectors.", param="model"
            )
        self._engine: Embeds = model.engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            told = await while_connected(receive, self._told())
            await JSONResponse(told)(scope, receive, send)
        except ClientGone:
            return
        finally:
            self._lease.end(self._ending)

    async def _told(self) -> dict[str, Any]:
        try:
            vectors, held_s = await self._made()
        except ApiError as error:
            if error.code == LATE and self._held_from_s is not None:
                self._ending = Ending(True, time.monotonic() - self._held_from_s)
            raise
        self._ending = Ending(False, held_s)
        await self._asking.record(self._exchange(vectors, held_s), may_fail=False)
        encode = _base64 if self._body.encoding_format == "base64" else list
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": encode(vector)}
                for index, vector in enumerate(vectors.of)
            ],
            "model": self._model.name,
            "usage": {"prompt_tokens": vectors.tokens, "total_tokens": vectors.tokens},
        }

    async def _made(self) -> tuple[Vectors, float]:
        """The vectors, and for how long a slot was held."""
        async with self._asking.in_time(), self._model.admission.slot(self._asking.key.id):
            self._held_from_s = from_s = time.monotonic()
            try:
                return await self._vectors(), time.monotonic() - from_s
            except ApiError:
                raise
            except Exception as error:
                if not isinstance(error, Refused):
                    self._ending = Ending(True, time.monotonic() - from_s)
                raise from_engine(error, self._asking.request_id, self._model.name) from error

    async def _vectors(self) -> Vectors:
        unwanted = threading.Event()
        texts: list[str | tuple[int, ...]] = []
        for text in prompts_of(self._body.input):
            read = (await self._asking.screen.asked(Request((), prompt=text))).prompt
            assert read is not None
            texts.append(read)
        work = asyncio.get_running_loop().run_in_executor(
            self._model.threads, self._engine.embed, texts, unwanted.is_set
        )
        try:
            return await asyncio.shield(work)
        finally:
            unwanted.set()
            await asyncio.wait([work])  # the slot is given back when the engine is free
            if not work.cancelled():
                work.exception()

    def _exchange(self, vectors: Vectors, held_s: float) -> Exchange:
        user = self._body.user
        return Exchange(
            id=self._id,
            request_id=self._asking.request_id,
            model=self._model.name,
            package_digest=self._model.package_digest,
            release=self._model.release,
            key_id=self._asking.key.id,
            user_sha256=None if user is None else hash_text(user),
            prompt_sha256=digest_of({"input": self._body.input}),
            answers_sha256=(),
            prompt_tokens=vectors.tokens,
            completion_tokens=0,
            finish=("embedded",),
            probability=None,
            first_token_s=None,
            latency_s=time.monotonic() - self._asking.started_s,
            streamed=False,
            cost=self._model.cost(held_s),
            guarded=tuple(self._asking.screen.hits),
        )


def _base64(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
