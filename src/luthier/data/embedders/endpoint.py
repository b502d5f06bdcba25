"""endpoint: vectors of a server that speaks OpenAI's protocol, POST {url}/embeddings. Rows' texts are sent there, by the one way
out (data/egress): to this machine, or to a host that the recipe allows by name.

A text is sent once per process while its vector is among the last `remembered`, and once ever where `cache` names a file. What
a server says may change from call to call; with a cache, a dataset that is made again is the same one. The key is a reference,
${NAME}, and is never recorded or told.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from luthier.core.errors import DataError
from luthier.core.spec import resolve
from luthier.data.egress import Declined, Door, EgressSpec, Transient

from .embedder import EmbedderKind

if TYPE_CHECKING:
    import numpy as np

WAITS_S = (0.5, 2.0, 8.0)
LONGEST_WAIT_S = 30.0


class EndpointSpec(EgressSpec):
    batch: int = Field(default=64, ge=1, le=2048)
    """How many texts are sent together."""
    longest: int = Field(default=8_000, ge=1)
    """Of longer texts only so many characters are sent."""
    at_most: int = Field(default=1_000_000, ge=1)
    """How many texts one process may send; beyond that it stops, so that a mistake costs no fortune."""
    remembered: int = Field(default=20_000, ge=1)
    """How many vectors a process keeps in memory."""
    cache: str | None = None
    """A file, by its whole path, that keeps every vector for later runs."""

    @model_validator(mode="after")
    def _whole_path(self) -> EndpointSpec:
        if self.cache is not None and not Path(self.cache).is_absolute():
            raise ValueError(f"{self.cache!r} is not a whole path, as in /data/vectors.sqlite")
        return self


class Endpoint:
    def __init__(self, settings: EndpointSpec) -> None:
        self._settings = settings
        self._known: OrderedDict[bytes, bytes] = OrderedDict()
        self._sent = 0
        self._door = Door(settings, lambda written: resolve(written, os.environ))
        self._salt = json.dumps([settings.url.rstrip("/"), settings.model]).encode()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """int8 [n, size]"""
        import numpy as np

        cut = [text[: self._settings.longest] for text in texts]
        names = [blake2b(self._salt + text.encode(), digest_size=20).digest() for text in cut]
        found = self._remembered(set(names))
        lacking = {name: text for name, text in zip(names, cut, strict=True) if name not in found and text}
        order = list(lacking)
        for start in range(0, len(order), self._settings.batch):
            some = order[start : start + self._settings.batch]
            told = self._asked([lacking[name] for name in some])
            self._remember(zip(some, told, strict=True))
            found |= zip(some, told, strict=True)
        sizes = {len(vector) for vector in found.values()}
        if len(sizes) > 1:
            raise DataError(
                f"{self._settings.url}: vectors of {min(sizes)} and of {max(sizes)} numbers for one model.",
                remedy="Name one model, and another cache for another one.",
            )
        if not sizes:
            if texts:  # all of them blank, and how long a vector is nobody has said
                return np.zeros((len(texts), self.embed(["a"]).shape[1]), np.int8)
            return np.zeros((0, 1), np.int8)
        size = sizes.pop()
        blank = bytes(size)
        return np.frombuffer(b"".join(found.get(name, blank) for name in names), np.int8).reshape(-1, size)

    def _asked(self, texts: list[str]) -> list[bytes]:
        import numpy as np

        from luthier.data.vectors import quantised

        self._sent += len(texts)
        if self._sent > self._settings.at_most:
            raise DataError(
                f"{self._settings.url}: more than {self._settings.at_most:,} texts were to be sent.",
                remedy="Raise at_most of the embedder, or let rules before leave fewer rows.",
            )
        answer = self._post({"model": self._settings.model, "input": texts})
        try:
            told = sorted(answer["data"], key=lambda one: one["index"])
            vectors = np.array([one["embedding"] for one in told], np.float64)
            fits = vectors.ndim == 2 and len(vectors) == len(texts) and bool(np.isfinite(vectors).all())
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise DataError(
                f"{self._settings.url}: the answer is not one vector for each of {len(texts)} texts.",
                remedy="Check that the URL is that of a server for embeddings, as in http://localhost:8000/v1.",
            )
        return [row.tobytes() for row in quantised(vectors)]

    def _post(self, told: dict[str, Any]) -> Any:
        url = self._settings.url.rstrip("/") + "/embeddings"
        for wait_s in (*WAITS_S, None):
            try:
                return self._door.post("embeddings", told)
            except Declined as error:
                why = f"declines: {error}"
                break
            except Transient as error:
                why = str(error)
                if wait_s is not None:
                    time.sleep(wait_s if error.wait_s is None else min(error.wait_s, LONGEST_WAIT_S))
        raise DataError(
            f"{url} {why}.", remedy="Check that the server runs there, the model's name and the key."
        )

    def _remembered(self, names: set[bytes]) -> dict[bytes, bytes]:
        found = {name: self._known[name] for name in names if name in self._known}
        if self._settings.cache is not None:
            with closing(self._stored()) as database:
                for name in names - found.keys():
                    line = database.execute("SELECT vector FROM vectors WHERE name = ?", (name,)).fetchone()
                    if line:
                        found[name] = line[0]
        return found

    def _remember(self, told: Iterable[tuple[bytes, bytes]]) -> None:
        told = list(told)
        for name, vector in told:
            self._known[name] = vector
            if len(self._known) > self._settings.remembered:
                self._known.popitem(last=False)
        if self._settings.cache is not None:
            with closing(self._stored()) as database, database:
                database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", told)

    def _stored(self) -> sqlite3.Connection:
        assert self._settings.cache is not None
        try:
            database = sqlite3.connect(self._settings.cache, timeout=60)
            database.execute(
                "CREATE TABLE IF NOT EXISTS vectors (name BLOB PRIMARY KEY, vector BLOB NOT NULL)"
            )
        except sqlite3.Error as error:
            raise DataError(
                f"{self._settings.cache}: vectors cannot be kept there: {error}.",
                remedy="Name a file in a folder that may be written to.",
            ) from None
        return database


endpoint = EmbedderKind(
    "endpoint", "A server that speaks OpenAI's protocol for embeddings.", EndpointSpec, Endpoint
)
