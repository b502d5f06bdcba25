"""Webhooks of a project: who is told when a job ends, with which secret that is signed, and a sample of it.

    signature     v1,base64(HMAC-SHA256(secret, "ID.TIMESTAMP.BODY")) in webhook-signature, beside webhook-id and webhook-timestamp, as
                  OpenAI's clients verify it (`client.webhooks.unwrap`)
    secret        whsec_ and base64; it follows from the site's key, the webhook and its generation, is shown once and kept nowhere

Not here: when it is sent and how often (delivering), where nothing is ever sent (core/egress).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.egress import Egress
from luthier.core.errors import NotFound, SpecError, did_you_mean
from luthier.store.webhooks import TYPES, Delivery, Webhook, event_of

from .permitted import project_of
from .server_key import derived

if TYPE_CHECKING:
    from .site import Caller, Site

HOSTS = "LUTHIER_EGRESS_HOSTS"
"""Hosts that this server may send to though they are inside, or by http: names or addresses, with commas between them."""
MOST = 20
OVERLAP_S = 24 * 3600.0
LONGEST_TITLE = 200


def egress_of(environ: Mapping[str, str]) -> Egress:
    """The way out as the server's owner allows it."""
    written = environ.get(HOSTS, "").lower().replace(",", " ").split()
    return Egress(frozenset(one.strip("[]") for one in written))


class Webhooks:
    def __init__(self, site: Site, egress: Egress | None = None) -> None:
        self._site = site
        self._egress = egress or egress_of(site.environ)

    def create(self, caller: Caller, *, title: str, url: str, events: Sequence[str]) -> tuple[Webhook, str]:
        """The webhook, and its secret, which is not shown again. Raises SpecError."""
        self._check(title, url, events)
        now_s = time.time()
        webhook = Webhook(
            f"whe_{secrets.token_hex(12)}", project_of(caller), title, url, sorted(set(events)), caller.user, now_s, now_s
        )  # fmt: skip
        act = caller.actor.act("webhook.created", webhook.id, self._told(webhook))
        secret = self.secret(webhook)  # first: where the site's key cannot be had, nothing is entered
        self._site.store.webhooks.add(webhook, act, MOST)
        return webhook, secret

    def get(self, caller: Caller, webhook_id: str) -> Webhook:
        return self._site.store.webhooks.get(project_of(caller), webhook_id)

    def list(
        self, caller: Caller, *, after: str | None = None, limit: int = 20
    ) -> tuple[list[Webhook], bool]:
        """(newest first, whether there are more)."""
        found = self._site.store.webhooks.list(project_of(caller))
        if after is not None:
            place = next((i for i, one in enumerate(found) if one.id == after), None)
            if place is None:
                raise NotFound(f"there is no webhook {after[:80]!r} to go on after.")
            found = found[place + 1 :]
        return found[:limit], len(found) > limit

    def change(
        self,
        caller: Caller,
        webhook_id: str,
        *,
        title: str | None = None,
        url: str | None = None,
        events: Sequence[str] | None = None,
    ) -> Webhook:
        """None stays as it is. Raises SpecError, NotFound."""
        was = self.get(caller, webhook_id)
        given = {"title": title, "url": url, "events": None if events is None else sorted(set(events))}
        now = {name: value for name, value in given.items() if value is not None}
        wanted = Webhook(**{**vars(was), **now})
        self._check(wanted.title, wanted.url, wanted.events)
        if wanted == was:
            return was
        act = caller.actor.act("webhook.changed", webhook_id, self._told(wanted))
        return self._site.store.webhooks.change(was.project, webhook_id, now, act)

    def end(self, caller: Caller, webhook_id: str) -> None:
        """What waits for it is not sent any more."""
        project = project_of(caller)
        act = caller.actor.act("webhook.deleted", webhook_id, {"project": project})
        self._site.store.webhooks.change(project, webhook_id, {"ended_s": time.time()}, act)

    def rotate(self, caller: Caller, webhook_id: str, *, keep_previous: bool = False) -> tuple[Webhook, str]:
        """Another secret, shown once. `keep_previous`: for a day both sign."""
        until_s = time.time() + OVERLAP_S if keep_previous else None
        project = project_of(caller)
        act = caller.actor.act(
            "webhook.secret_rotated", webhook_id, {"project": project, "keep_previous": keep_previous}
        )
        webhook = self._site.store.webhooks.renew(project, webhook_id, until_s, act)
        return webhook, self.secret(webhook)

    def test(self, caller: Caller, webhook_id: str, event_type: str) -> int:
        """Send a sample now, once; the status that was answered. Raises NotReached, SpecError."""
        webhook = self.get(caller, webhook_id)
        _check_types([event_type])
        subject = "ftjob-sample" if event_type.startswith("fine_tuning.") else "evalrun_sample"
        self._site.store.audit.append(
            caller.actor.act("webhook.tested", webhook_id, {"project": webhook.project})
        )
        now_s = time.time()
        return self.send(webhook, f"wh_{secrets.token_hex(16)}", event_of(event_type, subject, now_s), now_s)

    def deliveries(self, caller: Caller, webhook_id: str) -> Sequence[Delivery]:
        """The newest hundred."""
        return self._site.store.webhooks.deliveries(self.get(caller, webhook_id))

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, webhook: Webhook, delivery_id: str, event: Mapping[str, Any], now_s: float) -> int:
        """The status that was answered. Raises NotReached, SpecError where it may no longer be sent there."""
        body = json.dumps(event, separators=(",", ":")).encode()
        stamp = str(int(now_s))
        keys = [self.secret(webhook)]
        if webhook.previous_until_s is not None and now_s < webhook.previous_until_s:
            keys.append(self.secret(webhook, webhook.generation - 1))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "luthier",
            "webhook-id": delivery_id,
            "webhook-timestamp": stamp,
            "webhook-signature": " ".join(signature(key, delivery_id, stamp, body) for key in keys),
        }
        return self._egress.post(webhook.url, body, headers)

    def secret(self, webhook: Webhook, generation: int | None = None) -> str:
        number = webhook.generation if generation is None else generation
        made = derived(self._site.top.home, f"webhook:{webhook.id}:{number}")
        return f"whsec_{base64.b64encode(made).decode()}"

    def hint(self, webhook: Webhook) -> str:
        """Enough to tell two secrets apart."""
        return f"whsec_…{self.secret(webhook).rstrip('=')[-4:]}"

    def _check(self, title: str, url: str, events: Sequence[str]) -> None:
        if not 0 < len(title) <= LONGEST_TITLE or not title.isprintable():
            raise SpecError(
                f"a webhook's name has 1 to {LONGEST_TITLE} printable characters.",
                remedy="Write another one.",
            )
        if not events:
            raise SpecError(
                "a webhook wants at least one type of event.", remedy=f"There are {', '.join(TYPES)}."
            )
        _check_types(events)
        self._egress.target(url)

    @staticmethod
    def _told(webhook: Webhook) -> dict[str, Any]:
        """For the trail: the host, since a path may hold a secret of the receiver."""
        from urllib.parse import urlsplit

        host = urlsplit(webhook.url).netloc
        return {"project": webhook.project, "host": host, "events": list(webhook.events)}


def signature(secret: str, delivery_id: str, stamp: str, body: bytes) -> str:
    """
    >>> signature("whsec_AAAA", "wh_1", "5", b"{}")[:6], len(signature("whsec_AAAA", "wh_1", "5", b"{}"))
    ('v1,JsQ', 47)
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    made = hmac.new(key, f"{delivery_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(made).decode()}"


def _check_types(events: Sequence[str]) -> None:
    for one in events:
        if one not in TYPES:
            raise SpecError(
                f"there is no type of event {one[:80]!r} here.", remedy=did_you_mean(one[:80], TYPES)
            )
