"""Keys and passwords, one row for each kind: what it begins with, and how it goes on.

`hint` is a literal that must be in the text, which is looked for first. Where the beginning alone says little, `entropy`
asks how many bits a character must carry, so that "sk-this-is-only-an-example" is none.

Not here: a password in the middle of a sentence ("it is hunter2"), which nothing gives away.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from .checks import entropy


@dataclass(frozen=True)
class Secret:
    """`rest` follows the hint; `ends`: no letter or digit may follow."""

    hint: str
    rest: str
    entropy: float = 0.0
    ends: bool = False
    before: str = ""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        end = "(?![A-Za-z0-9])" if self.ends else ""
        return re.compile(f"(?<![A-Za-z0-9]){self.before}{re.escape(self.hint)}{self.rest}{end}")


_64 = "[A-Za-z0-9_-]"
_HEX = "[0-9a-f]"
SECRETS = (
    *(Secret(hint, "[A-Z0-9]{16}", ends=True) for hint in ("AKIA", "ASIA", "ABIA", "ACCA")),  # AWS
    *(Secret(f"gh{c}_", "[A-Za-z0-9]{36,255}") for c in "pousr"),  # GitHub
    Secret("github_pat_", "[A-Za-z0-9_]{22,255}"),
    Secret("glpat-", f"{_64}{{20,255}}"),  # GitLab
    *(Secret(f"xox{c}-", "[A-Za-z0-9-]{10,255}", 2.5) for c in "abeprs"),  # Slack
    Secret("xapp-", "[A-Za-z0-9-]{10,255}", 2.5),
    Secret("hooks.slack.com/services/", "[A-Za-z0-9/]{20,255}"),
    Secret("AIza", f"{_64}{{35}}(?!{_64})"),  # Google
    Secret("ya29.", f"{_64}{{20,2000}}", 3.0),
    Secret("GOCSPX-", f"{_64}{{20,255}}"),
    *(Secret(f"{a}_{b}_", "[A-Za-z0-9]{10,255}", 2.5) for a in ("sk", "rk", "pk") for b in ("live", "test")),  # Stripe
    Secret("whsec_", "[A-Za-z0-9+/=]{20,255}", 3.0),
    Secret("sk-", f"{_64}{{20,255}}", 3.5),  # OpenAI, Anthropic and others
    Secret("hf_", "[A-Za-z0-9]{30,255}", 3.0),  # Hugging Face
    Secret("npm_", "[A-Za-z0-9]{36}", ends=True),
    Secret("pypi-", f"{_64}{{50,2000}}", 3.0),
    Secret("SG.", rf"{_64}{{16,32}}\.{_64}{{32,64}}"),  # SendGrid
    Secret("SK", f"{_HEX}{{32}}", ends=True),  # Twilio
    Secret("AC", f"{_HEX}{{32}}", ends=True),
    Secret("key-", f"{_HEX}{{32}}", ends=True),  # Mailgun
    *(Secret(f"do{c}_v1_", f"{_HEX}{{64}}", ends=True) for c in "opr"),  # DigitalOcean
    Secret("dapi", f"{_HEX}{{32}}(?:-[0-9])?", ends=True),  # Databricks
    *(Secret(f"shp{c}_", "[0-9a-fA-F]{32}", ends=True) for c in ("at", "ca", "pa", "ss")),  # Shopify
    Secret("dckr_pat_", f"{_64}{{20,255}}"),  # Docker
    *(Secret(f"hv{c}.", f"{_64}{{24,255}}", 3.0) for c in "sbr"),  # Vault
    *(Secret(f"gl{c}_", "[A-Za-z0-9_=+/]{32,400}", 3.0) for c in ("sa", "c")),  # Grafana
    Secret("lin_api_", "[A-Za-z0-9]{32,64}"),  # Linear
    Secret("AGE-SECRET-KEY-1", "[0-9A-Z]{58}", ends=True),
    Secret(":AA", f"{_64}{{32,34}}(?!{_64})", before="[0-9]{8,10}"),  # Telegram
)  # fmt: skip

_JWT = re.compile(rf"(?<!{_64})eyJ{_64}{{8,4000}}+\.{_64}{{4,20000}}+\.{_64}{{4,2000}}+")
_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END [A-Z0-9 ]{0,60}-----")
_BODY = re.compile(r"(?:[A-Za-z0-9+/=]{16,}+|\s|\\[nr])*+")
LONGEST_BLOCK = 20_000
_URL = re.compile(r"://([^\s:/@\"'<>]{0,128}+):([^\s/@\"'<>`\\]{1,256}+)@")
_PLACEHOLDER = re.compile(
    r"[$%<{\[].*|\*+|\.+|[a-z]{1,3}|[0-9]{1,3}|pass(?:word|wd|wort)?|x{4,20}|your.{0,30}|secret",
    re.DOTALL | re.IGNORECASE,
)

# A path, or a name with points as programs have them.
_NAME = re.compile(
    r"[~.]{0,2}(?:/[A-Za-z0-9_.-]{1,255}+){2,}+/?|[A-Za-z_][A-Za-z0-9_]*+(?:\.[A-Za-z_][A-Za-z0-9_]*+)++"
)

PASSWORDS = ("password", "passwd", "passwort", "passphrase", "mot de passe", "pwd")
NAMED = (*PASSWORDS, "secret", "token", "apikey", "api_key", "api-key", "api key", "accesskey", "access_key", "access-key",
         "access key", "accountkey", "account_key", "private_key", "auth_key", "credential", "bearer", "authorization", "sig=")  # fmt: skip
"""Words after which a secret may stand."""
_I = "i\u0130\u0131"  # equal where case does not matter, to Python but not to Rust
_BLANK = r"[\s\x1c-\x1f]"  # what Python calls a blank
_BEFORE = (
    rf"[a-z{_I}_]{{0,16}}+[\"']?{_BLANK}{{0,4}}+(?:=>|:=|[:=]|[{_I}]s{_BLANK})?{_BLANK}{{0,4}}+"
    rf"(?:bearer{_BLANK}|bas[{_I}]c{_BLANK})?[\"'`]?"
)
_SIGN = f"[a-z{_I}0-9+/_.~!@#^&*%$-]"
_VALUE = re.compile(f"{_BEFORE}({_SIGN}{{8,512}}+={{0,2}}+)", re.IGNORECASE)
_SAID = re.compile(r"[:=]|\sis\s|\sist\s", re.IGNORECASE)


@lru_cache(maxsize=1)
def sieve() -> str:
    """A regular expression that every text with a key matches, as Rust reads it."""
    # Short beginnings are common in words ("task-force"), so there the next letters are asked for too.
    more = {
        "sk-": f"{_64}{{20}}",
        "hf_": "[A-Za-z0-9]{30}",
        "SG.": f"{_64}{{16}}",
        "SK": f"{_HEX}{{32}}",
        "AC": f"{_HEX}{{32}}",
    }
    hints = [re.escape(one.hint) + more.get(one.hint, "") for one in SECRETS]
    words = "|".join(re.escape(word) for word in NAMED)
    return "|".join(
        [
            *hints,
            "eyJ[A-Za-z0-9_-]{8}",
            "PRIVATE KEY",
            r"://[^\s:/@]{0,128}:[^\s/@]+@",
            f"(?i:(?:{words}){_BEFORE.replace('}+', '}')}{_SIGN}{{8}})",
        ]
    )


def secrets(text: str) -> Iterator[tuple[int, int]]:
    """Spans of keys, with overlaps, in no order. Linear in the text."""
    for secret in SECRETS:
        if secret.hint in text:
            for match in secret.pattern.finditer(text):
                if not secret.entropy or _is_dense(match[0][len(secret.hint) :], secret.entropy):
                    yield match.span()
    if "eyJ" in text:
        yield from (match.span() for match in _JWT.finditer(text) if _is_jwt(match[0]))
    if "PRIVATE KEY" in text:
        yield from _blocks(text)
    if "://" in text:
        for match in _URL.finditer(text):
            if not _PLACEHOLDER.fullmatch(match[2]):
                yield match.span(2)
    yield from _named(text)


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """From BEGIN to END; without an END near, as far as the letters of a key go."""
    at = end = 0
    while begin := _BEGIN.search(text, at):
        at = begin.end()
        if 0 <= end < at:
            end = text.find("-----END", at)
        close = _END.match(text, end) if 0 <= end - at <= LONGEST_BLOCK else None
        if close is None:
            close = _BODY.match(text, at)
        at = close.end() if close else at
        yield begin.start(), at


def _named(text: str) -> Iterator[tuple[int, int]]:
    lower = text.lower()
    if len(lower) != len(text):  # a few letters become two
        lower = "".join(c.lower() if c.isascii() else c for c in text)
    for word in NAMED:
        at = lower.find(word)
        while at >= 0:
            at += len(word)
            match = _VALUE.match(text, at)
            if match:
                said = word == "bearer" or word == "sig=" or _SAID.search(text, at, match.start(1))
                if said and (_is_random(match[1]) or (word in PASSWORDS and _is_password(match[1]))):
                    yield match.span(1)
            at = lower.find(word, at)


def _is_jwt(token: str) -> bool:
    head = token.split(".", 1)[0]
    try:
        told = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and ("alg" in told or "typ" in told)


def _is_dense(value: str, bits: float) -> bool:
    return entropy(value) >= bits and any(c.isdigit() or c.isupper() for c in value)


def _is_random(value: str) -> bool:
    """Letters and digits mixed as no word, name of a program or path mixes them."""
    value = value.rstrip("=.").split("&")[0]
    digits, letters = (sum(map(test, value)) for test in (str.isdigit, str.isalpha))
    if len(value) < 16 or not digits or not letters or "%20" in value or _NAME.fullmatch(value):
        return False
    kinds = [(c.isdigit(), c.isupper()) for c in value]
    turns = sum(a != b for a, b in pairwise(kinds))
    if digits < 2 and turns < 0.45 * len(value):
        return False
    return entropy(value) >= (3.0 if len(value) < 20 or re.fullmatch("[0-9a-f]+", value) else 3.5)


def _is_password(value: str) -> bool:
    """Letters and digits, and no path ("PWD=/home/user1")."""
    value = value.rstrip(".,;!")
    return (
        len(value) >= 8
        and any(map(str.isdigit, value))
        and any(map(str.isalpha, value))
        and value[0] not in "/.~"
    )
