"""The way out to URLs that people name over the wire: one request, to an address that was looked at before it was connected to.

    form       https; http only to hosts that the server's owner lists. No user, no backslash, no blank, no address written in another
               way than the plain one (0x7f.1, 2130706433, 017700000001, ::ffff:127.0.0.1)
    address    the name is looked up once, every address it leads to is looked at, and the connection goes to one of those. This
               machine, private networks, link-local addresses (where clouds keep credentials) and the like are refused, unless the
               owner lists the host by name; a link-local address he must list as that very address
    answer     redirects are not followed; bytes and seconds are bounded, however slowly a server drips

Not here: servers that a recipe or the command line names, whose author is the machine's own user (data/egress, monitoring/webhook).
"""

from __future__ import annotations

import http.client
import ipaddress
import queue
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .errors import LuthierError, SpecError

LONGEST_URL = 2000
MOST_READ = 10_000
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_URL = re.compile(r"[!#-\[\]^_`a-z{|}~]+", re.ASCII)  # printable, without blanks, quotes and backslashes
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.ASCII)
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.ASCII)


class NotReached(LuthierError):
    """Nobody answered there, or nothing was sent because of where it leads."""


@dataclass(frozen=True)
class Target:
    """A URL that may be connected to as far as its form goes."""

    url: str
    scheme: str
    host: str
    port: int
    path: str
    """With the query."""


Resolve = Callable[[str, int], Iterable[tuple[Any, ...]]]


def _resolve(host: str, port: int) -> Iterable[tuple[Any, ...]]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


@dataclass(frozen=True)
class Egress:
    """`allowed`: hosts, as a URL writes them, that the server's owner lists. Thread-safe."""

    allowed: frozenset[str] = frozenset()
    timeout_s: float = 10.0
    """For all of it: look-up, connection, answer."""
    resolve: Resolve = _resolve
    trust: ssl.SSLContext | None = field(default=None, repr=False)
    """None: the system's authorities."""

    def target(self, url: str) -> Target:
        """Raises SpecError for what nothing is ever sent to. Looks nothing up."""
        if not isinstance(url, str) or not 0 < len(url) <= LONGEST_URL or not _URL.fullmatch(url.lower()):
            raise _refused(
                url,
                f"is longer than {LONGEST_URL:,} characters, or holds blanks, backslashes or letters beyond ASCII",
            )
        try:
            told = urlsplit(url)
            host, port = told.hostname or "", told.port
        except ValueError as error:
            raise _refused(url, f"is no URL ({error})") from None
        if told.scheme not in ("https", "http"):
            raise _refused(url, "does not begin with https://")
        if "@" in told.netloc or told.fragment or "#" in url:
            raise _refused(url, "holds a user, a password or a fragment")
        if not _is_host(host) or told.netloc.lower() not in _written(host, port):
            raise _refused(url, "does not name a host as a plain name or a plain address")
        if told.scheme == "http" and host not in self.allowed:
            raise _refused(
                url,
                "is not https, and its host is not among those that the owner of this server allows http for",
            )
        if port == 0:
            raise _refused(url, "names the port 0")
        path = (told.path or "/") + (f"?{told.query}" if told.query else "")
        return Target(url, told.scheme, host, port or (443 if told.scheme == "https" else 80), path)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The status of the answer, a redirect's too. Raises SpecError for a URL's form, NotReached."""
        to = self.target(url)
        cut = _Cut(self.timeout_s)
        try:
            with cut:
                sock = self._connected(to)
                cut.of(sock)
                status = posted(sock, to, body, headers, self.timeout_s, self.trust, cut.of)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if cut.late:
                raise NotReached(f"{to.host} did not answer within {self.timeout_s:g} s.") from None
            raise NotReached(f"{to.host} does not answer ({type(error).__name__}).") from None
        return status

    def addresses(self, to: Target) -> list[tuple[Any, ...]]:
        """Where that host is now. Raises NotReached where it is nowhere, or one of its addresses is none that is connected to."""
        told = _in_time(lambda: list(self.resolve(to.host, to.port)), self.timeout_s, to.host)
        found = [one[4] for one in told]
        if not found:
            raise NotReached(f"{to.host} leads nowhere.")
        for address in found:
            ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
            if why := forbidden(ip, to.host, to.host in self.allowed):
                raise NotReached(f"{to.host} leads to {why}, where nothing is sent.")
        return found

    def _connected(self, to: Target) -> socket.socket:
        last: OSError | None = None
        for address in self.addresses(to):
            try:
                return socket.create_connection(address[:2], self.timeout_s)
            except OSError as error:
                last = error
        raise last or OSError("no address")


def posted(
    sock: socket.socket, to: Target, body: bytes, headers: Mapping[str, str], timeout_s: float, trust: ssl.SSLContext | None = None,
    seen: Callable[[socket.socket], object] = lambda _: None,
) -> int:  # fmt: skip
    """POST over a connection that was made to an address that was looked at; the status of the answer. `seen` is given what is read from
    where that is no longer `sock`. Raises OSError, HTTPException, ValueError."""
    if to.scheme == "https":
        sock = (trust or ssl.create_default_context()).wrap_socket(sock, server_hostname=to.host)
        seen(sock)
    connection = http.client.HTTPConnection(to.host, to.port, timeout=timeout_s)
    connection.sock = sock
    try:
        connection.request("POST", to.path, body, dict(headers))
        answer = connection.getresponse()
        answer.read(MOST_READ)
        return answer.status
    finally:
        connection.close()


def forbidden(ip: IPAddress, host: str, allowed: bool) -> str | None:
    """Why nothing is sent to an address; None: it may be connected to. An address inside another one counts as itself.

    >>> ip = ipaddress.ip_address
    >>> forbidden(ip("127.0.0.1"), "x", False), forbidden(ip("127.0.0.1"), "x", True), forbidden(ip("8.8.8.8"), "x", False)
    ('this machine', None, None)
    >>> forbidden(ip("64:ff9b::a9fe:a9fe"), "x", True)
    'a link-local address'
    """
    plain = _inner(ip)
    if plain.is_unspecified or plain.is_multicast:
        return "no single machine"
    if plain.is_link_local:
        return None if allowed and host in (str(plain), str(ip)) else "a link-local address"
    if allowed:
        return None
    if plain.is_loopback:
        return "this machine"
    return None if plain.is_global and not plain.is_reserved else "a private or reserved network"


def _inner(ip: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv6 one stands for: mapped, compatible, 6to4, Teredo, NAT64."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    value = int(ip)
    if value >> 32 == 0 and value > 1:
        return ipaddress.IPv4Address(value)
    if value >> 32 in (0x64FF9B << 64, 0x64FF9B0001 << 48):
        return ipaddress.IPv4Address(value & 0xFFFFFFFF)
    teredo = ip.teredo[1] if ip.teredo else None
    return ip.ipv4_mapped or ip.sixtofour or teredo or ip


def _is_host(host: str) -> bool:
    """A plain name, or an address in its one plain way.

    >>> [_is_host(h) for h in ("hooks.example.com", "10.0.0.1", "::1", "127.1", "0x7f.1", "2130706433", "010.0.0.1", "a.", "::ffff:1.2.3.4")]
    [True, True, True, False, False, False, False, False, False]
    """
    if ":" in host:
        try:
            ip = ipaddress.IPv6Address(host)
        except ValueError:
            return False
        return str(ip) == host and _inner(ip) == ip
    if not _NAME.fullmatch(host):
        return False
    if _NUMBER.fullmatch(host.rpartition(".")[2]):  # other readers take it for an address, in whatever base
        try:
            return str(ipaddress.IPv4Address(host)) == host
        except ValueError:
            return False
    return True


def _written(host: str, port: int | None) -> tuple[str, ...]:
    """How host and port may stand in a URL, so that no two readers see two hosts."""
    plain = f"[{host}]" if ":" in host else host
    return (plain,) if port is None else (f"{plain}:{port}",)


def _refused(url: object, why: str) -> SpecError:
    return SpecError(
        f"the URL {str(url)[:100]!r} {why}.", remedy="Name a server as https://HOST/PATH, by its plain name."
    )


def _in_time(work: Callable[[], list[tuple[Any, ...]]], timeout_s: float, host: str) -> list[tuple[Any, ...]]:
    """A look-up has no time limit of its own."""
    found: queue.Queue[Any] = queue.Queue()

    def look() -> None:
        try:
            found.put(work())
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=look, daemon=True, name="look-up").start()
    try:
        told = found.get(timeout=timeout_s)
    except queue.Empty:
        raise NotReached(f"{host} was not found within {timeout_s:g} s.") from None
    if isinstance(told, Exception):
        raise NotReached(f"{host} is not found ({type(told).__name__}).")
    return list(told)


class _Cut:
    """Ends a connection when its time is over: one that drips is never late with the next byte."""

    def __init__(self, timeout_s: float) -> None:
        self.late = False
        self._sock: socket.socket | None = None
        self._timer = threading.Timer(timeout_s, self._end)
        self._timer.daemon = True

    def of(self, sock: socket.socket) -> None:
        self._sock = sock

    def _end(self) -> None:
        self.late = True
        if self._sock is not None:
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def __enter__(self) -> _Cut:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
