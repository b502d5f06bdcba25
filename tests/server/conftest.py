"""Real servers on loopback: uvicorn, a free port, one key, one served model. They stop at the end of the module."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest

from luthier.server.exchange import Exchange
from luthier.server.keys import KeyRing, generate
from luthier.server.openai import Limits, create_app
from luthier.server.serve import running
from luthier.server.served import ServedModel

DIGEST = "0123456789abcdef" * 4


@dataclass
class Door:
    """An open server and how to reach it."""

    url: str
    key: str
    key_id: str
    model: ServedModel
    exchanges: list[Exchange] = field(default_factory=list)

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": self.key, "max_retries": 0, "timeout": 20, **options}
        )

    def http(self, **options: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False, **options)

    def connect(self) -> socket.socket:
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=10)

    def raw(self, request: bytes) -> bytes:
        """Everything that comes back for these bytes until the server closes."""
        with self.connect() as connection:
            connection.sendall(request)
            return everything(connection)


def everything(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


OpenDoor = Callable[..., Door]


@pytest.fixture(scope="module")
def open_door() -> Iterator[OpenDoor]:
    with ExitStack() as stack:

        def open_one(engine: Any, *, waiting: int = 4, on_exchange: Any = None, **options: Any) -> Door:
            engine.load()
            stack.callback(engine.close)
            text, key = generate(options.pop("permissions", frozenset({"chat", "models.read"})))
            model = ServedModel(
                "router",
                engine,
                package_digest=DIGEST,
                release="router@3",
                created_s=1_700_000_000,
                waiting=waiting,
                hourly=options.pop("hourly", None),
            )
            exchanges: list[Exchange] = []
            limits = Limits(**options.pop("limits", {}))
            serve_options = options.pop("serve", {})
            app = create_app(
                {"router": model},
                KeyRing([key]),
                on_exchange=on_exchange or exchanges.append,
                limits=limits,
                **options,
            )
            url = stack.enter_context(running(app, **serve_options))
            return Door(url, text, key.id, model, exchanges)

        yield open_one
