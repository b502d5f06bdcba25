"""The way out: what a rule sends to a server, and what it may.

    host       loopback, or the one that the recipe allows by name: rows never leave by a slip of the pen
    redirects  are not followed, since rows and key would follow to a host that nobody has allowed
    key        a reference, ${NAME}; its value is in no record, log or error, even where the server repeats it
    private    what is sent to another machine has had private data taken out, or a person has said that it need not
    answers    bounded in bytes and in seconds, however slowly a server drips

Not here: how often to try again and what that may cost (evaluation/asking), and what an answer means.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from luthier.core.errors import DataError, SpecError
from luthier.core.spec import Spec, references
from luthier.core.units import Seconds

ANSWER_BYTES = 64_000_000
PIECE_BYTES = 65_536
_POLL_S = 0.2


class ServerSpec(Spec):
    """A server that something is sent to, and that it may be."""

    url: str
    """Where the server is, up to its version, as in `http://localhost:8000/v1`."""
    allow_host: str | None = None
    """The host of `url`, written once more: rows may leave this machine for it. Not needed for this machine itself."""

    @model_validator(mode="after")
    def _may_be_asked(self) -> Self:
        try:
            told = urlsplit(self.url)
            host, _ = told.hostname, told.port
        except ValueError as error:
            raise ValueError(f"{self.url!r} is no URL: {error}") from None
        if told.scheme not in ("http", "https") or not host:
            raise ValueError(f"{self.url!r} is no URL of a server; write http://HOST/v1 or https://HOST/v1")
        if told.username or told.password or told.query or told.fragment:
            raise ValueError("a URL holds no password and no query; write key: ${NAME}")
        if self.allow_host is not None and self.allow_host != host:
            raise ValueError(
                f"allow_host is {self.allow_host!r}, and url leads to {host!r}; write one of them anew"
            )
        if self.away and self.allow_host is None:
            raise ValueError(
                f"rows would be sent to {host}, which is not this machine; if they may leave it, write allow_host: {host}"
            )
        return self

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def away(self) -> bool:
        """Whether that is another machine."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True


class EgressSpec(ServerSpec):
    model: str
    """The model's name on that server."""
    key: str | None = None
    """The key as a reference to an environment variable, ${NAME}."""
    timeout: Seconds = Field(default=60.0, gt=0, exclude=True)
    """How long one answer may take."""

    @model_validator(mode="after")
    def _key_is_a_reference(self) -> Self:
        if self.key is not None and references(self.key) != [self.key[2:-1]]:
            raise ValueError(
                "a key is not written in a recipe; refer to an environment variable, as in ${LLM_KEY}"
            )
        return self


class Transient(Exception):
    """It did not work this time. `wait_s` is what the server asks for."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class Unusable(Transient):
    """There was an answer, and it has to be paid for: so many tokens were read and written."""

    def __init__(self, why: str, tokens_in: int, tokens_out: int) -> None:
        super().__init__(why)
        self.tokens_in, self.tokens_out = tokens_in, tokens_out


class Declined(Exception):
    """The server will not answer this very request, now or later."""


@dataclass(frozen=True)
class Door:
    """To one server. Thread-safe: every request has a connection of its own."""

    spec: EgressSpec
    secret: Callable[[str], str]
    clock: Callable[[], float] = field(default=time.monotonic)
    local: Path | None = None
    """The socket of a process of ours, in place of the URL's host and port."""

    def post(self, path: str, told: Mapping[str, Any]) -> dict[str, Any]:
        """Raises Transient, Declined, and DataError where no other request could fare better."""
        headers = self._headers("application/json")
        place = urlsplit(self.spec.url)
        try:
            connection = self._connection(place.scheme, place.hostname or "", place.port)
            # a server that drips headers is never late with the next byte, and would be waited for without end
            last = threading.Timer(2 * self.spec.timeout, _cut, [connection])
            last.daemon = True
            last.start()
            try:
                body = json.dumps(told, ensure_ascii=False).encode()
                connection.request("POST", f"{place.path.rstrip('/')}/{path}", body, headers)
                answer = connection.getresponse()
                return self._read(answer, self._bounded(answer))
            finally:
                last.cancel()
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise Transient(
                f"does not answer ({type(error).__name__}: {error})".rstrip(" :)") + ")"
            ) from None

    def _headers(self, accepted: str) -> dict[str, str]:
        """Raises DataError for a key that no header can hold, without the key."""
        headers = {"Content-Type": "application/json", "Accept": accepted, "User-Agent": "luthier"}
        if self.spec.key:
            key = self.secret(self.spec.key)
            if not (key.isascii() and key.isprintable()):
                raise DataError(
                    f"the value of {self.spec.key} holds a line break or another character that no key has.",
                    remedy="Look at how it is set: a file that is read into a variable often ends with a line break.",
                )
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def stream(
        self, path: str, told: Mapping[str, Any], unwanted: Callable[[], bool]
    ) -> Generator[dict[str, Any], None, None]:
        """Server-sent values, one by one, until [DONE], or early once `unwanted` says True; closing hangs up. Raises as `post`."""
        headers = self._headers("text/event-stream")
        place = urlsplit(self.spec.url)
        connection = self._connection(place.scheme, place.hostname or "", place.port)
        read = 0
        try:
            body = json.dumps(told, ensure_ascii=False).encode()
            connection.request("POST", f"{place.path.rstrip('/')}/{path}", body, headers)
            until_s = self.clock() + self.spec.timeout
            while not _readable(connection.sock, _POLL_S):
                if unwanted():
                    return
                if self.clock() > until_s:
                    raise Transient(f"has not begun to answer within {self.spec.timeout:g} s")
            answer = connection.getresponse()
            if answer.status != 200:
                self._read(answer, self._bounded(answer))  # raises for each of them
            while line := answer.readline(PIECE_BYTES):
                read += len(line)
                if read > ANSWER_BYTES:
                    raise Transient(f"answers more than {ANSWER_BYTES:,} bytes")
                if unwanted() or line.startswith(b"data: [DONE]"):
                    return
                if line.startswith(b"data:"):
                    yield self._value(line[5:])
            raise Transient("breaks off in the middle of an answer")
        except (OSError, http.client.HTTPException) as error:
            raise Transient(f"does not answer ({type(error).__name__})") from None
        finally:
            connection.close()

    def _value(self, line: bytes) -> dict[str, Any]:
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            raise Transient("answers with something that is no JSON") from None
        if not isinstance(told, dict):
            raise Transient("answers with JSON of another form")
        if "error" in told:
            raise Transient(f"breaks off ({self._message(line)})")
        return told

    def _connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if self.local is not None:
            return LocalConnection(self.local, timeout=self.spec.timeout)
        if scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self.spec.timeout, context=context)
        return http.client.HTTPConnection(host, port, timeout=self.spec.timeout)

    def _bounded(self, answer: http.client.HTTPResponse) -> bytes:
        until_s, read = self.clock() + self.spec.timeout, bytearray()
        while piece := answer.read1(PIECE_BYTES):
            read += piece
            if len(read) > ANSWER_BYTES:
                raise Transient(f"answers more than {ANSWER_BYTES:,} bytes")
            if self.clock() > until_s:
                raise Transient(f"has not finished an answer within {self.spec.timeout:g} s")
        if answer.length:
            raise Transient("breaks off in the middle of an answer")
        return bytes(read)

    def _read(self, answer: http.client.HTTPResponse, body: bytes) -> dict[str, Any]:
        status, url = answer.status, self.spec.url
        if status in (400, 413, 422):
            raise Declined(f"{status}: {self._message(body)}")
        if status in (408, 409, 425, 429) or status >= 500:
            raise Transient(
                f"answers {status} ({self._message(body)})", _wait(answer.headers.get("Retry-After"))
            )
        if 300 <= status < 400:
            raise DataError(
                f"{url} sends requests on to another place, where nothing is sent.",
                remedy="Write the URL that it leads to, if rows may be sent there.",
            )
        if status != 200:
            raise DataError(
                f"{url} answers {status} ({self._message(body)}).",
                remedy="Check the URL, the model's name and the key.",
            )
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            raise Transient("answers with something that is no JSON") from None
        if not isinstance(told, dict):
            raise Transient("answers with JSON of another form")
        return told

    def _message(self, body: bytes) -> str:
        """What the server says of itself, without the key should it repeat that."""
        text = _told(body)
        if self.spec.key and (value := self.secret(self.spec.key)):
            text = text.replace(value, self.spec.key)
        return _short(text)


class LocalConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, place: Path, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._place = place

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._place))


def _readable(what: socket.socket, seconds: float) -> bool:
    """By poll: `select` knows the first 1,024 files only."""
    waiting = select.poll()
    waiting.register(what, select.POLLIN)
    return bool(waiting.poll(1000 * seconds))


def _cut(connection: http.client.HTTPConnection) -> None:
    """End what is under way: whoever reads from it is told that it broke off."""
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def need_redacted(host: str, *, redacted: bool, allowed: bool, where: str) -> None:
    """Raise SpecError where rows would leave for another machine with private data in them. `redacted`: a rule of the recipe
    takes private data out of every row; `allowed`: a person has written that rows may leave as they are."""
    if not redacted and not allowed:
        raise SpecError(
            f"{where}: rows would be sent to {host}, and no rule takes private data out of them.",
            remedy="Add `redact` to data.rules.quality, or write unredacted: true there if rows may leave as they are.",
        )


def _told(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:2_000].decode(errors="replace")


def _short(text: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(line.split())[:200] or "no message"


def _wait(written: str | None) -> float | None:
    """Of a Retry-After: seconds, or a date."""
    if not written:
        return None
    try:
        return max(0.0, float(written))
    except ValueError:
        from email.utils import parsedate_to_datetime

        try:
            return max(0.0, parsedate_to_datetime(written).timestamp() - time.time())
        except ValueError:
            return None
