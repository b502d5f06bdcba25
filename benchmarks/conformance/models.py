"""Models: a base under the name that the tests ask for, and a fine-tuned one that is deleted again and again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import sqlalchemy as sa

from luthier.app.fine_tuning import MODEL
from luthier.store.objects import Object
from luthier.store.tables import objects

if TYPE_CHECKING:
    from tenant import Tenant

TESTS = ("tests/api_resources/test_models.py",)
SKIPPED: Mapping[str, str] = {}
NAMES: Mapping[str, Mapping[str, str]] = {}
TUNED = "ft:gpt-4o-mini:acemeco:suffix:abc123"


def seed(tenant: Tenant) -> None:
    path = tenant.site.top.home / "bases.yaml"
    there = path.read_text() if path.exists() else ""
    path.write_text(f"{there}gpt-6-astra: smollm2-135m-instruct\n")
    new = Object(MODEL, TUNED, {"release": "none@1", "job": "none"}, "seed", time.time())
    tenant.site.app(tenant.caller).store.objects.add(new, act=None)


def restore(tenant: Tenant, method: str, path: str) -> None:
    if method == "DELETE" and path.startswith("/v1/models/"):
        with tenant.site.app(tenant.caller).store.database.transaction() as connection:
            which = sa.and_(objects.c.kind == MODEL, objects.c.id == TUNED)
            connection.execute(objects.update().where(which).values(ended_s=None))
