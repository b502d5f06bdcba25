"""flows over httpx, once with and once without await. The key goes to one origin alone: no redirect is followed."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from luthier.core.errors import SpecError, missing_part

from .flows import Answer, Ask, Flow, Follow, Next, Pause, Said, as_json

_AT_ONCE = 1 << 20
LONGEST_ANSWER = 200_000_000
_HTTP = "The client of a server"


def httpx() -> Any:
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise missing_part(error.name or "httpx", "client", _HTTP) from error
    return httpx


def origin_of(base_url: str, insecure: bool) -> str:
    """Scheme, host and port (and a path before ours). Raises SpecError for what would show the key to the network."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise SpecError(
            f"{base_url.partition('@')[2] or base_url!r} is no address of a server.",
            remedy="https://HOST[:PORT]",
        )
    if parts.username or parts.password:
        raise SpecError("the address holds a name or a password.", remedy="Give the key apart from it.")
    if parts.scheme == "http" and not insecure and not _loopback(parts.hostname):
        raise SpecError(
            f"http://{parts.hostname} would send the key through the network for all to read.",
            remedy="Use https, or say that this network is safe (insecure=True, --insecure).",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def headers_of(key: str, project: str | None) -> dict[str, str]:
    named = {} if project is None else {"openai-project": project}
    return {"authorization": f"Bearer {key}", "accept": "application/json", **named}


def _request(ask: Ask) -> dict[str, Any]:
    told: dict[str, Any] = {"headers": dict(ask.headers)}
    if ask.sends is not None:
        told["headers"] |= {
            "content-type": "application/octet-stream",
            "content-length": str(ask.sends.stat().st_size),
        }
    elif ask.body is not None:
        told["json"] = ask.body
    return told


class Driver:
    def __init__(self, http: Any) -> None:
        self._http = http

    def drive(self, flow: Flow) -> Any:
        stream: _Stream | None = None
        came: Any
        try:
            wanted = next(flow)
            while True:
                match wanted:
                    case Ask():
                        came = self._ask(wanted)
                    case Pause():
                        time.sleep(wanted.seconds)
                        came = None
                    case Follow():
                        if stream is not None:
                            stream.close()
                        stream = _Stream(self._http, wanted.path)
                        came = stream.open()
                    case Next():
                        assert stream is not None
                        came = stream.next()
                wanted = flow.send(came)
        except StopIteration as end:
            return end.value
        finally:
            flow.close()
            if stream is not None:
                stream.close()

    def _ask(self, ask: Ask) -> Answer:
        told = _request(ask)
        try:
            if ask.sends is not None:
                told["content"] = _parts(ask.sends)
            with self._http.stream(ask.method, ask.path, **told) as response:
                if ask.saves is not None and response.status_code == 200:
                    found = hashlib.sha256()
                    with ask.saves.open("xb") as handle:
                        for part in response.iter_bytes(_AT_ONCE):
                            found.update(part)
                            handle.write(part)
                    return Answer(200, response.headers, found.hexdigest())
                body = bytearray()
                for part in response.iter_bytes(_AT_ONCE):
                    body += _bounded(part, len(body))
                return _answer(response, bytes(body))
        except httpx().HTTPError as error:
            _forget(ask)
            return Answer(0, {}, _why(error))


class AsyncDriver:
    def __init__(self, http: Any) -> None:
        self._http = http

    async def drive(self, flow: Flow) -> Any:
        stream: _AsyncStream | None = None
        came: Any
        try:
            wanted = next(flow)
            while True:
                match wanted:
                    case Ask():
                        came = await self._ask(wanted)
                    case Pause():
                        await asyncio.sleep(wanted.seconds)
                        came = None
                    case Follow():
                        if stream is not None:
                            await stream.close()
                        stream = _AsyncStream(self._http, wanted.path)
                        came = await stream.open()
                    case Next():
                        assert stream is not None
                        came = await stream.next()
                wanted = flow.send(came)
        except StopIteration as end:
            return end.value
        finally:
            flow.close()
            if stream is not None:
                await stream.close()

    async def _ask(self, ask: Ask) -> Answer:
        told = _request(ask)
        try:
            if ask.sends is not None:
                told["content"] = _parts_later(ask.sends)
            async with self._http.stream(ask.method, ask.path, **told) as response:
                if ask.saves is not None and response.status_code == 200:
                    found = hashlib.sha256()
                    with ask.saves.open("xb") as handle:
                        async for part in response.aiter_bytes(_AT_ONCE):
                            found.update(part)
                            await asyncio.to_thread(handle.write, part)
                    return Answer(200, response.headers, found.hexdigest())
                body = bytearray()
                async for part in response.aiter_bytes(_AT_ONCE):
                    body += _bounded(part, len(body))
                return _answer(response, bytes(body))
        except httpx().HTTPError as error:
            _forget(ask)
            return Answer(0, {}, _why(error))


class _Stream:
    """Server-sent events. Its end, and whatever breaks it, is None: the flow asks again behind the last event."""

    def __init__(self, http: Any, path: str) -> None:
        self._context = http.stream("GET", path, headers={"accept": "text/event-stream"})
        self._events: Iterator[Said] = iter(())

    def open(self) -> Answer:
        try:
            response = self._context.__enter__()
            if response.status_code != 200:
                return _answer(response, response.read())
            self._events = _events(response.iter_lines())
            return Answer(200, response.headers, None)
        except httpx().HTTPError as error:
            return Answer(0, {}, _why(error))

    def next(self) -> Said | None:
        try:
            return next(self._events, None)
        except httpx().HTTPError:
            return None

    def close(self) -> None:
        self._context.__exit__(None, None, None)


class _AsyncStream:
    def __init__(self, http: Any, path: str) -> None:
        self._context = http.stream("GET", path, headers={"accept": "text/event-stream"})
        self._lines: AsyncIterator[str] | None = None

    async def open(self) -> Answer:
        try:
            response = await self._context.__aenter__()
            if response.status_code != 200:
                return _answer(response, await response.aread())
            self._lines = response.aiter_lines()
            return Answer(200, response.headers, None)
        except httpx().HTTPError as error:
            return Answer(0, {}, _why(error))

    async def next(self) -> Said | None:
        assert self._lines is not None
        lines: list[str] = []
        try:
            async for line in self._lines:
                if line:
                    lines.append(line)
                elif (said := _said(lines)) is not None:
                    return said
                else:
                    lines = []
        except httpx().HTTPError:
            pass
        return None

    async def close(self) -> None:
        await self._context.__aexit__(None, None, None)


def _events(lines: Iterator[str]) -> Iterator[Said]:
    told: list[str] = []
    for line in lines:
        if line:
            told.append(line)
            continue
        if (said := _said(told)) is not None:
            yield said
        told = []


def _said(lines: list[str]) -> Said | None:
    """One event; a comment, which keeps the stream alive, as `alive`, so that a wish to stop is seen then."""
    fields = {name: value.removeprefix(" ") for name, _, value in (line.partition(":") for line in lines)}
    if "event" not in fields:
        return Said("alive", None, None) if lines else None
    number = fields.get("id", "")
    return Said(
        fields["event"], json.loads(fields.get("data", "null")), int(number) if number.isdecimal() else None
    )


def _answer(response: Any, body: bytes) -> Answer:
    return Answer(response.status_code, response.headers, as_json(body))


def _bounded(part: bytes, so_far: int) -> bytes:
    if so_far + len(part) > LONGEST_ANSWER:
        raise SpecError(f"the answer has more than {LONGEST_ANSWER:,} bytes.", remedy="Ask for less.")
    return part


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        while part := handle.read(_AT_ONCE):
            yield part


async def _parts_later(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as handle:
        while part := await asyncio.to_thread(handle.read, _AT_ONCE):
            yield part


def _forget(ask: Ask) -> None:
    """Half a file, before it is asked for again."""
    if ask.saves is not None:
        ask.saves.unlink(missing_ok=True)


def _why(error: Exception) -> str:
    """Of httpx, whose messages hold addresses and never headers."""
    return str(error) or type(error).__name__
