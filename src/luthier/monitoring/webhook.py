"""Alerts to a server of yours: POST of JSON, signed, by the rules of everything that leaves (data/egress).

host       this machine, or the one that the recipe allows by name
address    looked up once and connected to as it was looked up; link-local addresses (where clouds keep credentials), multicast
           and the like are refused, and so is an allowed name that leads back to this machine
redirects  are not followed
signature  Luthier-Signature: v1=HMAC-SHA256(secret, "TIMESTAMP.BODY") in hexadecimal digits, beside Luthier-Timestamp: who receives
           it can tell that it is ours, unchanged and not replayed
again      Luthier-Alert is the same for the same alert: it may come twice, where an answer was lost
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from luthier.core.egress import Target, posted

from .alerts import Alert, NotSent
from .spec import WebhookSpec

SHORTEST_SECRET = 16


def send(alert: Alert, spec: WebhookSpec, secret: Callable[[str], str], now_s: float | None = None) -> None:
    """Raises NotSent, and SpecError where the secret is not set."""
    key = secret(spec.secret)
    if len(key) < SHORTEST_SECRET:
        raise NotSent(
            f"{spec.secret} is shorter than {SHORTEST_SECRET} characters, which anybody could try out"
        )
    stamp = str(int(time.time() if now_s is None else now_s))
    try:
        body = json.dumps(alert.plain(), ensure_ascii=False).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "luthier",
            "Luthier-Alert": alert.id,
            "Luthier-Timestamp": stamp,
            "Luthier-Signature": f"v1={signature(key, stamp, body)}",
        }
        _post(spec, body, headers)
    except ValueError as error:  # UnicodeError is one; its words may hold the secret
        raise NotSent(
            f"{spec.url} or what is sent there cannot be written as it must be ({type(error).__name__})"
        ) from None


def signature(key: str, stamp: str, body: bytes) -> str:
    """What the receiver computes again.

    >>> len(signature("k" * 16, "1700000000", b"{}"))
    64
    """
    return hmac.new(key.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()


def _post(spec: WebhookSpec, body: bytes, headers: Mapping[str, str]) -> None:
    place = urlsplit(spec.url)
    port = place.port or (443 if place.scheme == "https" else 80)
    to = Target(spec.url, place.scheme, spec.host, port, place.path or "/")
    try:
        status = posted(connected(spec.host, port, spec.away, spec.timeout), to, body, headers, spec.timeout)
    except (OSError, http.client.HTTPException) as error:
        raise NotSent(f"{spec.url} does not answer ({type(error).__name__})") from None
    if 300 <= status < 400:
        raise NotSent(f"{spec.url} sends requests on to another place, where nothing is sent")
    if not 200 <= status < 300:
        raise NotSent(f"{spec.url} answers {status}")


def connected(host: str, port: int, away: bool, timeout_s: float) -> socket.socket:
    """A connection to the address that the name led to, which was looked at. Raises NotSent for one that nothing is sent to, OSError."""
    told: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    last: OSError | None = None
    for _, _, _, _, address in told:
        ip = ipaddress.ip_address(address[0].partition("%")[0])
        plain = getattr(ip, "ipv4_mapped", None) or ip
        if plain.is_link_local or plain.is_multicast or plain.is_unspecified or plain.is_loopback == away:
            raise NotSent(f"{host} leads to {plain}, where nothing is sent")
    for _, _, _, _, address in told:
        try:
            return socket.create_connection(address[:2], timeout_s)
        except OSError as error:
            last = error
    raise last or OSError("no address")
