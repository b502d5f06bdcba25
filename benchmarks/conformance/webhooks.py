"""Webhooks: one under the id that the tests ask for, and how the client verifies what it is sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from luthier.store.tables import webhooks
from luthier.store.webhooks import Webhook

if TYPE_CHECKING:
    from tenant import Tenant

_FILE = "tests/api_resources/test_webhooks.py"
TESTS = (_FILE, "tests/api_resources/webhooks", "tests/lib/test_webhooks.py")
_NO_URL = "the URL is 'https://' and the event is 'batch.completed': the one names no host, the other never happens here"
_NO_EVENT = "the event is 'batch.completed', which never happens here"
SKIPPED: Mapping[str, str] = {
    **{
        f"{_FILE}::{who}::test_{how}": _NO_URL
        for who in ("TestWebhooks", "TestAsyncWebhooks")
        for how in (
            "method_create",
            "raw_response_create",
            "streaming_response_create",
            "method_update_with_all_params",
        )
    },
    **{
        f"{_FILE}::{who}::test_{how}": _NO_EVENT
        for who in ("TestWebhooks", "TestAsyncWebhooks")
        for how in ("method_test", "raw_response_test", "streaming_response_test")
    },
}
NAMES: Mapping[str, str] = {}
FIXED = "whe_123"


def seed(tenant: Tenant) -> None:
    now = time.time()
    for name in (FIXED, "whe_124"):
        made = Webhook(
            name, tenant.caller.project or "", name, "https://hooks.example.com", ["eval.run.failed"], "seed", now, now
        )  # fmt: skip
        tenant.site.store.webhooks.add(made, tenant.caller.actor.act("webhook.created", name), 20)


def restore(tenant: Tenant, _: str, path: str) -> None:
    if path.startswith("/v1/webhook_endpoints"):
        with tenant.site.store.database.transaction() as connection:
            connection.execute(webhooks.update().where(webhooks.c.id == FIXED).values(ended_s=None))
