"""How people come in: through a provider of OpenID Connect that the site's operator names in `login.yaml`, and a session after it.

    public_url: https://luthier.example
    providers:
    - {name: company, issuer: "https://login.example", client_id: luthier, client_secret: "${LUTHIER_OIDC_SECRET}"}

Authorization code with PKCE. What a login needs to know again (state, nonce, verifier) is derived from one secret in a cookie of the browser
that began it, so a callback in another browser is worth nothing and nothing secret is kept here. Users are matched by (issuer, subject) and
never by address; nobody registers himself. An invitation by address is taken once, by a verified claim, and becomes (issuer, subject).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from luthier.core.errors import LuthierError, NotFound, SpecError, missing_part
from luthier.core.names import folded
from luthier.core.spec import Spec, parse, read_yaml, references, resolve
from luthier.store.accounts import User
from luthier.store.sessions import Session

from .acting import Actor
from .oidc import NotProven, Provider, is_here
from .site import Caller, Held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .site import Site

logger = logging.getLogger("luthier.login")

FILE: Final = "login.yaml"
INVITED_S = 14 * 86_400.0
WRITE_S = 60.0
"""That a session was used is written no more often."""
_INVITED = "invited:"
_MAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,180}")
_NEXT = re.compile(r"/(?![/\\])[A-Za-z0-9._~/?=&-]{0,500}", re.ASCII)
HOME = "/luthier/v1/me"


class ProviderSpec(Spec):
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    """How it is called in /luthier/v1/login?provider=NAME."""
    issuer: str
    """Exactly as the provider's tokens have it (`iss`)."""
    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    """As the provider gave it."""
    client_secret: str | None = None
    """A reference, `${NAME}`; a secret that is written out is refused. Without one, Luthier is a public client."""
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    """What is asked for; `openid` must be there."""

    @field_validator("issuer")
    @classmethod
    def _https(cls, value: str) -> str:
        place = urlsplit(value)
        if place.scheme != "https" and not (place.scheme == "http" and is_here(place.hostname)):
            raise ValueError("an issuer is an https address")
        return value

    @field_validator("client_secret")
    @classmethod
    def _by_reference(cls, value: str | None) -> str | None:
        if value is not None and (len(references(value)) != 1 or value != f"${{{references(value)[0]}}}"):
            raise ValueError("a secret is named, not written: ${NAME} of an environment variable")
        return value

    @field_validator("scopes")
    @classmethod
    def _openid(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in value:
            raise ValueError("openid must be among the scopes")
        return value


class LoginSpec(Spec):
    """`login.yaml` in the server's home."""

    public_url: str
    """Under which people reach the server: https://HOST, or http on loopback."""
    providers: Annotated[list[ProviderSpec], Field(min_length=1, max_length=8)]
    """Who proves who somebody is; the first one is asked where none is named."""
    session_hours: Annotated[float, Field(gt=0, le=24 * 30)] = 12.0
    """A session ends after this, however much it is used."""
    idle_minutes: Annotated[float, Field(gt=0, le=60 * 24 * 7)] = 60.0
    """And after this without being used."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        place = urlsplit(self.public_url)
        safe = place.scheme == "https" or (place.scheme == "http" and is_here(place.hostname))
        if (
            not safe
            or not place.hostname
            or place.path.strip("/")
            or place.query
            or place.fragment
            or place.username
        ):
            raise ValueError("public_url is https://HOST (http on loopback alone) and nothing behind it")
        if len({one.name for one in self.providers}) != len(self.providers):
            raise ValueError("two providers have the same name")
        if len({one.issuer for one in self.providers}) != len(self.providers):
            raise ValueError("two providers have the same issuer")
        return self

    @property
    def secure(self) -> bool:
        return self.public_url.startswith("https://")


@dataclass(frozen=True)
class Begun:
    """`secret` goes into a cookie of the browser, which is sent to `url`."""

    url: str
    secret: str


@dataclass(frozen=True)
class Entered:
    """`token` goes into the session's cookie; `next`: a path of this server."""

    token: str
    next: str
    user: User


class Login:
    """`Login.of(site)`; None where the site has no `login.yaml`. Thread-safe."""

    def __init__(self, site: Site, spec: LoginSpec) -> None:
        self._site = site
        self.spec = spec
        self._rows, self._users = site.store.sessions, site.store.accounts
        self._providers = {
            one.name: Provider(
                one.issuer, one.client_id, one.client_secret and resolve(one.client_secret, site.environ)
            )
            for one in spec.providers
        }

    @classmethod
    def of(cls, site: Site) -> Login | None:
        """Raises SpecError for a file that says what cannot be, MissingPart without the extra oidc."""
        found = site.top.home / FILE
        if not found.exists():
            return None
        try:
            import joserfc  # noqa: F401
        except ModuleNotFoundError:
            raise missing_part("joserfc", "oidc", "Login through OpenID Connect") from None
        return cls(
            site, parse(LoginSpec, read_yaml(_text(found), FILE), "docs/access.md explains every key.")
        )

    # -- in -------------------------------------------------------------------------------------------------------------

    def begin(self, provider: str | None, then: str | None) -> Begun:
        """Raises NotFound for a provider that there is not, SpecError for a `then` that leads elsewhere."""
        name = provider or self.spec.providers[0].name
        if name not in self._providers:
            raise NotFound(
                f"there is no provider {name[:40]!r}.", remedy=f"There are {', '.join(self._providers)}."
            )
        if then is not None and not _NEXT.fullmatch(then):
            raise SpecError("next leads elsewhere.", remedy="Name a path of this server, or leave it out.")
        spec = next(one for one in self.spec.providers if one.name == name)
        secret = secrets.token_urlsafe(32)
        url = self._providers[name].authorize_url({
            "response_type": "code", "client_id": spec.client_id, "redirect_uri": self.redirect_uri,
            "scope": " ".join(spec.scopes), "state": derived(secret, "state"), "nonce": derived(secret, "nonce"),
            "code_challenge": _challenge(derived(secret, "verifier")), "code_challenge_method": "S256",
        })  # fmt: skip
        self._rows.begin(_sha256(derived(secret, "state")), {"provider": name, "next": then or HOME})
        return Begun(url, secret)

    @property
    def redirect_uri(self) -> str:
        return f"{self.spec.public_url.rstrip('/')}/luthier/v1/login/callback"

    def finish(self, told: Mapping[str, str], secret: str | None) -> Entered:
        """`told`: what the provider sent back; `secret`: from the browser's cookie. Raises NotProven."""
        if not secret or not hmac.compare_digest(
            told.get("state", "").encode(), derived(secret, "state").encode()
        ):
            raise NotProven("the callback is not of a login that this browser began.")
        begun = self._rows.take(_sha256(derived(secret, "state")))
        if begun is None or begun.get("provider") not in self._providers:
            raise NotProven("the login was not begun here, or too long ago, or is over.")
        provider = self._providers[str(begun["provider"])]
        if told.get("iss", provider.issuer) != provider.issuer:
            raise NotProven("the callback is another issuer's.")
        code = told.get("code", "")
        if "error" in told or not 0 < len(code) <= 4_000:
            raise NotProven(f"the provider let nobody in ({told.get('error', 'no code')[:40]!r}).")
        token = provider.redeem(code, derived(secret, "verifier"), self.redirect_uri)
        claims = provider.proven(token, derived(secret, "nonce"))
        user = self._user(provider.issuer, claims)
        return Entered(self._session(user), str(begun["next"]), user)

    def _user(self, issuer: str, claims: Mapping[str, Any]) -> User:
        subject = str(claims["sub"])
        if subject.startswith(_INVITED):  # what stands where an invitation waits, and no subject of ours
            raise NotProven("the provider's subject is none that is taken here.")
        if (found := self._users.who(issuer, subject)) is not None:
            return found
        address = claims.get("email")
        if claims.get("email_verified") is True and isinstance(address, str) and _MAIL.fullmatch(address):
            invited = self._users.who(issuer, invited_as(address))
            if invited is not None and invited.created_s > time.time() - INVITED_S:
                known = replace(invited, subject=subject)
                self._users.change_user(known, Actor(known.id).act("user.invitation_taken", known.id))
                return known
        raise NotProven("nobody invited that person.")

    def _session(self, user: User) -> str:
        token, now = secrets.token_urlsafe(32), time.time()
        row = Session(_sha256(token), user.id, _sha256(derived(token, "csrf")), now, now + self._idle_s)
        self._rows.add(row, _actor(user).act("session.started", user.id))
        return token

    # -- and as whom ----------------------------------------------------------------------------------------------------

    def check(self, token: str, project: str | None = None) -> Caller | None:
        """Who that session is, in `project`."""
        found = self._rows.find(_sha256(token))
        if found is None:
            return None
        session, user = found
        ends_s = session.created_s + self.spec.session_hours * 3_600
        now = time.time()
        if ends_s <= now:
            return None
        self._extend(session, min(ends_s, now + self._idle_s))
        caller = self._site.caller(Held(user, session=session.sha256), project)
        return caller and replace(caller, csrf=derived(token, "csrf"))

    def proves(self, token: str, csrf: str) -> bool:
        """Whether a page of ours that knows the session made the request."""
        return hmac.compare_digest(csrf.encode("utf-8", "replace"), derived(token, "csrf").encode())

    def leave(self, caller: Caller) -> None:
        """Raises SpecError for a caller who came with a key."""
        if caller.session is None:
            raise SpecError(
                "there is no session to end.", remedy="End a key with DELETE /luthier/v1/keys/ID."
            )
        self._rows.end(caller.session, caller.actor.act("session.ended", caller.user))

    @property
    def _idle_s(self) -> float:
        return min(self.spec.idle_minutes * 60, self.spec.session_hours * 3_600)

    def _extend(self, session: Session, expires_s: float) -> None:
        if expires_s - session.expires_s < min(WRITE_S, self._idle_s / 4):
            return
        try:
            self._rows.extend(session.sha256, expires_s)
        except LuthierError:  # it may end earlier than it would have; the request is none the worse
            logger.warning("that a session is used could not be written", exc_info=True)


def invited_as(address: str) -> str:
    """What stands as subject of somebody who was invited by address. Raises SpecError."""
    folded_address = folded(address.strip())
    if not _MAIL.fullmatch(folded_address) or not folded_address.isprintable():
        raise SpecError(
            "that is no e-mail address.", remedy="Write it as the provider's claim `email` has it."
        )
    return f"{_INVITED}{folded_address}"


def derived(secret: str, what: str) -> str:
    """One of several values that only who knows the secret can tell."""
    digest = hmac.new(secret.encode(), f"luthier {what}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _actor(user: User) -> Actor:
    return Actor(user.id, {"user": user.id, "name": user.name})


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path} cannot be read ({type(error).__name__}).", remedy="Write it as UTF-8 text."
        ) from None
