"""A provider of OpenID Connect for tests, on loopback: discovery, keys, and a token endpoint that checks PKCE as RFC 7636 says. What its id
tokens hold and how they are signed may be spoilt (`spoil`), to see what is taken."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jwk, jwt

CLIENT, SECRET = "luthier", "canary-client-secret-9f3a"
Spoil = Callable[[dict[str, Any], dict[str, Any]], str | None]
"""(header, claims), to be changed in place; a token of its own, or None to have it signed as usual."""


class Provider:
    def __init__(self) -> None:
        self.key = jwk.RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
        self.keys = [self.key]
        self.codes: dict[str, dict[str, Any]] = {}
        self.spoil: Spoil = lambda header, claims: None
        self.about: dict[str, Any] = {}
        self.asked: list[str] = []
        self.url = ""

    def log_in(self, url: str, **who: Any) -> dict[str, str]:
        """What a browser brings back that was sent to `url` and whose person is `who` (claims)."""
        told = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert told["client_id"] == CLIENT and told["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = {**told, "who": who}
        return {"code": code, "state": told["state"], "iss": self.url}

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.url, "authorization_endpoint": f"{self.url}/authorize", "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys", **self.about,
        }  # fmt: skip

    def token(self, form: dict[str, str]) -> dict[str, Any] | None:
        begun = self.codes.pop(form.get("code", ""), None)
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        right = (
            begun is not None
            and base64.urlsafe_b64encode(challenge).rstrip(b"=").decode() == begun["code_challenge"]
            and form.get("redirect_uri") == begun["redirect_uri"]
            and form.get("client_secret") == SECRET
        )
        if not right:
            return None
        now = int(time.time())
        header: dict[str, Any] = {"alg": "RS256", "kid": "one"}
        claims = {
            "iss": self.url, "aud": CLIENT, "sub": "sub-1", "iat": now, "exp": now + 300, "nonce": begun["nonce"], **begun["who"],
        }  # fmt: skip
        return {
            "token_type": "Bearer",
            "access_token": "x",
            "id_token": self.spoil(header, claims) or self.sign(header, claims),
        }

    def sign(self, header: dict[str, Any], claims: dict[str, Any], key: Any = None) -> str:
        return jwt.encode(header, claims, key or self.key, algorithms=[header["alg"]])


def bare(header: dict[str, Any], claims: dict[str, Any], signature: str = "") -> str:
    """A token that no library would make."""
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()  # noqa: E731
    return f"{part(header)}.{part(claims)}.{signature}"


@contextmanager
def running() -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked.append(self.path)
            if self.path == "/.well-known/openid-configuration":
                self._say(200, provider.discovery())
            elif self.path == "/keys":
                self._say(200, {"keys": [key.as_dict(private=False) for key in provider.keys]})
            else:
                self._say(404, {})

        def do_POST(self) -> None:
            provider.asked.append(self.path)
            raw = self.rfile.read(int(self.headers["content-length"])).decode()
            told = provider.token({name: values[0] for name, values in parse_qs(raw).items()})
            self._say(200 if told else 400, told or {"error": "invalid_grant"})

        def _say(self, status: int, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
