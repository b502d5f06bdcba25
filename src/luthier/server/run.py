"""Between an engine, which blocks, and the event loop, which must not.

One thread pulls one answer from start to end and hands chunks over; it never waits for a slow client, and with `ahead` neither
does whoever holds the slot: a slot is held for as long as the engine works and no longer. Whoever stops listening stops the engine at its next chunk, or
sooner where the engine asks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import Executor
from contextlib import aclosing, closing, suppress
from typing import Any, TypeVar

from starlette.types import Receive

from luthier.serving.engine import Cancelled, Chunk, Engine, Request

T = TypeVar("T")


class ClientGone(Exception):
    """The client hung up; there is nobody to answer."""


async def chunks_of(engine: Engine, request: Request, threads: Executor) -> AsyncGenerator[Chunk, None]:
    """The engine's chunks. Raises what the engine raises. When this generator is closed, the engine is free."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Chunk | None] = asyncio.Queue()
    unwanted = threading.Event()

    def pull() -> None:
        try:
            with closing(engine.generate(request, unwanted.is_set)) as chunks, suppress(Cancelled):
                for chunk in chunks:
                    loop.call_soon_threadsafe(arrived.put_nowait, chunk)
                    if unwanted.is_set():
                        return
        finally:
            loop.call_soon_threadsafe(arrived.put_nowait, None)

    work = loop.run_in_executor(threads, pull)
    try:
        while (chunk := await arrived.get()) is not None:
            yield chunk
        await work
    finally:
        unwanted.set()
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # looked at, so that it is not reported as forgotten


async def ahead(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same items, made in a task of their own as fast as they come, however slowly they are taken. What `items` raises is raised
    after all that came before it. When this generator is closed, so is `items`."""
    arrived: asyncio.Queue[tuple[T] | None] = asyncio.Queue()

    async def pull() -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    arrived.put_nowait((item,))
        finally:
            arrived.put_nowait(None)

    work = asyncio.ensure_future(pull())
    try:
        while (one := await arrived.get()) is not None:
            yield one[0]
        await work
    finally:
        work.cancel()
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # looked at, so that it is not reported as forgotten


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled, and waited for, as soon as the client hangs up: then ClientGone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait((task, gone))
        if not task.cancelled():
            task.exception()  # looked at, so that it is not reported as forgotten


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
