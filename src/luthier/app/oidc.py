"""A provider of OpenID Connect, as a relying party sees it: where its endpoints are, which keys it signs with, what a code is worth, and
whether an id token is what it says. OpenID Connect Core 1.0 §3.1.3.7, RFC 8725 (JWT best practices), RFC 9207 (`iss` of a callback).

    algorithms   asymmetric ones alone, named here; what the token's header wishes for is not asked: no `none`, no HMAC
    keys         the provider's own JWKS at its own https address; `kid` is compared, never a path; `jku`, `x5u`, `jwk` are not looked at
    claims       iss, aud (and azp), exp, iat, nbf, nonce, sub
    network      https (http on loopback alone), one address looked up once, no redirects, 10 s, 1 MB

Not here: who that person is to us, and sessions (login).
"""

from __future__ import annotations

import hmac
import http.client
import json
import logging
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from luthier.core.errors import LuthierError, missing_part
from luthier.core.strict_json import finite, no_constant, once
from luthier.monitoring.alerts import NotSent
from luthier.monitoring.webhook import connected

logger = logging.getLogger("luthier.login")

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LARGEST_BYTES = 1_000_000
LARGEST_TOKEN = 20_000
TIMEOUT_S = 10.0
LEEWAY_S = 60.0
KNOWN_S = 3_600.0
"""How long endpoints and keys are held for known."""
AGAIN_S = 30.0
"""Keys are fetched anew for a `kid` that is not known, and no more often than this."""
SILENT_S = 5.0
"""A provider that did not answer is not asked again for this long; who logs in meanwhile is told so at once."""


class NotProven(LuthierError):
    """A login that proves nothing. The message is for the log; whoever logs in is told no more than that it failed."""


class Provider:
    """Thread-safe. `secret`: the client's, or None for a public client (PKCE protects both)."""

    def __init__(self, issuer: str, client_id: str, secret: str | None) -> None:
        self.issuer, self.client_id = issuer, client_id
        self._secret = secret
        self._lock = threading.Lock()
        self._about: tuple[Mapping[str, Any], float] | None = None
        self._keys: tuple[list[Mapping[str, Any]], float] | None = None
        self._silent: dict[str, float] = {}
        """Address: until when it is not asked."""

    def authorize_url(self, asked: Mapping[str, str]) -> str:
        """Where the browser is sent. Raises NotProven where the provider does not answer."""
        where = _checked(str(self._known()["authorization_endpoint"]))
        return f"{where}{'&' if '?' in where else '?'}{urlencode(asked)}"

    def redeem(self, code: str, verifier: str, redirect_uri: str) -> str:
        """The id token that a code is worth. Raises NotProven."""
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri,
            "client_id": self.client_id, "code_verifier": verifier,
        }  # fmt: skip
        if self._secret is not None:
            form["client_secret"] = self._secret
        told = _fetch(str(self._known()["token_endpoint"]), urlencode(form).encode())
        token = told.get("id_token")
        if not isinstance(token, str) or len(token) > LARGEST_TOKEN:
            raise NotProven("the provider gave no id token.")
        return token

    def proven(self, token: str, nonce: str, now_s: float | None = None) -> Mapping[str, Any]:
        """The claims of an id token that is the provider's, for us, and for this login. Raises NotProven."""
        try:
            from joserfc import jwk, jws
            from joserfc.errors import JoseError
        except ModuleNotFoundError as error:
            raise missing_part(str(error.name), "oidc", "Login through OpenID Connect") from None
        header = _header(token)
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS:
            raise NotProven(
                f"the id token is signed with {str(algorithm)[:20]!r}, which proves nothing here."
            )
        if "crit" in header or "b64" in header:
            raise NotProven("the id token asks for extensions of its format.")
        key = self._key_of(header.get("kid"), str(algorithm))
        try:
            registry = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
            payload = jws.deserialize_compact(
                token, jwk.import_key(dict(key)), algorithms=[str(algorithm)], registry=registry
            ).payload
        except (JoseError, ValueError, TypeError) as error:
            raise NotProven(f"the id token's signature does not hold ({type(error).__name__}).") from None
        claims = _json(payload or b"")
        self._check_claims(claims, nonce, time.time() if now_s is None else now_s)
        return claims

    def _check_claims(self, claims: Mapping[str, Any], nonce: str, now_s: float) -> None:
        if claims.get("iss") != self.issuer:
            raise NotProven("the id token is another issuer's.")
        audience = claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience
        if not isinstance(audiences, list) or self.client_id not in audiences:
            raise NotProven("the id token is for another client.")
        if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != self.client_id:
            raise NotProven("the id token was issued to another client.")
        times = {}
        for name in ("exp", "iat", "nbf"):
            value = claims.get(name)
            if value is None and name == "nbf":
                continue
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise NotProven(f"the id token's {name} is no time.")
            times[name] = float(value)
        if times["exp"] <= now_s - LEEWAY_S:
            raise NotProven("the id token has expired.")
        if times["iat"] > now_s + LEEWAY_S or times.get("nbf", 0.0) > now_s + LEEWAY_S:
            raise NotProven("the id token is not valid yet.")
        given = claims.get("nonce")
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
            raise NotProven("the id token is of another login.")
        subject = claims.get("sub")
        if not (
            isinstance(subject, str)
            and 0 < len(subject) <= 255
            and subject.isascii()
            and subject.isprintable()
        ):
            raise NotProven("the id token names nobody.")

    # -- what the provider says of itself -------------------------------------------------------------------------------

    def _known(self) -> Mapping[str, Any]:
        with self._lock:
            known = self._about
        if known is not None and known[1] >= time.monotonic() - KNOWN_S:
            return known[0]
        about = self._read(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if about.get("issuer") != self.issuer:
            raise NotProven(f"{self.issuer} says that it is another issuer.")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            _checked(str(about.get(name)))
        with self._lock:
            self._about = about, time.monotonic()
        return about

    def _read(self, url: str) -> Mapping[str, Any]:
        """What stands there. Nobody waits for another's reading, and what failed a moment ago fails at once."""
        with self._lock:
            if time.monotonic() < self._silent.get(url, 0.0):
                raise NotProven(f"{self.issuer} did not answer a moment ago.")
        try:
            return _fetch(url)
        except NotProven:
            with self._lock:
                self._silent = {url: time.monotonic() + SILENT_S}
            raise

    def _key_of(self, kid: Any, algorithm: str) -> Mapping[str, Any]:
        """The one key of the provider that may have signed so."""
        for fresh in (False, True):
            fitting = [
                one for one in self._signing(fresh)
                if _fits(one, algorithm) and (kid is None or one.get("kid") == kid)
            ]  # fmt: skip
            if len(fitting) == 1:
                return fitting[0]
        raise NotProven("the id token names no key of the provider, or leaves open which.")

    def _signing(self, fresh: bool) -> list[Mapping[str, Any]]:
        where = str(self._known()["jwks_uri"])
        with self._lock:
            known = self._keys
            age_s = time.monotonic() - known[1] if known else KNOWN_S
        if known is not None and age_s < (AGAIN_S if fresh else KNOWN_S):
            return known[0]
        found = self._read(where).get("keys")
        if not isinstance(found, list):
            raise NotProven("the provider's keys cannot be read.")
        keys: list[Mapping[str, Any]] = [one for one in found[:100] if isinstance(one, dict)]
        with self._lock:
            self._keys = keys, time.monotonic()
        return keys


_KINDS = {"RS": ("RSA", None), "PS": ("RSA", None), "Ed": ("OKP", "Ed25519")}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_SHORTEST_RSA = 342
"""Characters of base64url that a modulus of 2048 bits has."""


def _fits(key: Mapping[str, Any], algorithm: str) -> bool:
    """Public, of the kind that the algorithm needs, and meant for signatures."""
    kind, curve = _KINDS.get(algorithm[:2], ("EC", _CURVES.get(algorithm)))
    if key.get("kty") != kind or (curve is not None and key.get("crv") != curve):
        return False
    if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm or "d" in key:
        return False
    return kind != "RSA" or (isinstance(key.get("n"), str) and len(key["n"]) >= _SHORTEST_RSA)


def _header(token: str) -> Mapping[str, Any]:
    import base64
    import binascii

    try:
        first, _, _ = token.split(".")
        return _json(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (ValueError, binascii.Error):
        raise NotProven("the id token is no signed JWT.") from None


def _json(raw: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=once, parse_constant=no_constant, parse_float=finite
        )
    except (ValueError, RecursionError):
        raise NotProven("what the provider sent is no JSON that means one thing.") from None
    if not isinstance(value, dict):
        raise NotProven("what the provider sent is no JSON object.")
    return value


def is_here(host: str | None) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")


def _checked(url: str) -> str:
    """Raises NotProven for an address that no secret is sent to."""
    try:
        place = urlsplit(url)
        place.port  # noqa: B018  (raises ValueError for what is none)
    except ValueError:
        place = urlsplit("")
    plain = url.isascii() and url.isprintable() and not set(url) & set(' \\"<>')
    safe = place.scheme == "https" or (place.scheme == "http" and is_here(place.hostname))
    if not (plain and safe and place.hostname) or place.username is not None or place.fragment:
        raise NotProven(f"the address {url[:200]!r} of the provider is not https.")
    return url


def _fetch(url: str, form: bytes | None = None) -> Mapping[str, Any]:
    """GET, or POST of a form. What was sent is in no message. Raises NotProven."""
    place = urlsplit(_checked(url))
    host = place.hostname or ""
    port = place.port or (443 if place.scheme == "https" else 80)
    headers = {"Accept": "application/json", "User-Agent": "luthier"}
    if form is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    try:
        sock = connected(host, port, not is_here(host), TIMEOUT_S)
        if place.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        connection.sock = sock
        try:
            path = (place.path or "/") + (f"?{place.query}" if place.query else "")
            connection.request("GET" if form is None else "POST", path, form, headers)
            answer = connection.getresponse()
            body = answer.read(LARGEST_BYTES + 1)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, NotSent) as error:
        raise NotProven(f"{place.netloc} does not answer ({type(error).__name__}).") from None
    if answer.status != 200 or len(body) > LARGEST_BYTES:
        raise NotProven(f"{place.netloc} answers {answer.status}, or too much.")
    return _json(body)
