import time

import pytest
from fastapi.testclient import TestClient

from luthier.app.site import Site, new_id
from luthier.core import keys
from luthier.server.platform.make import create_platform
from luthier.store.accounts import Grant, KeyRow, User


@pytest.fixture
def site(tmp_path):
    return Site.open({"LUTHIER_HOME": str(tmp_path / "site")})


@pytest.fixture
def first_key(site):
    return site.found()


@pytest.fixture
def client(site, first_key):
    with TestClient(
        create_platform(site, {}),
        base_url="http://127.0.0.1:1",
        headers={"authorization": f"Bearer {first_key}"},
    ) as client:
        yield client


@pytest.fixture
def released(site, first_key):
    """A release of the first project, made in the first key's name."""

    def released(name):
        from luthier.core.artifact import Artifact

        caller = site.check(first_key)
        catalog = site.app(caller).store.catalog
        artifact = catalog.record(
            Artifact("release", f"{len(catalog.all('release')):064d}", {}, 1, {}, (), {}, 1.0)
        )
        return str(catalog.name(name, artifact.digest, caller.actor.act("released", name)))

    return released


@pytest.fixture
def key_of(site, first_key):
    """A new person's key in the first project (or another scope)."""

    def key_of(role, scope=None):
        scope = scope or site.check(first_key).project
        user, now, (text, key_id, sha256) = (
            User(new_id("user"), "person", role, time.time()),
            time.time(),
            keys.generate(),
        )
        site.store.accounts.add(
            user, Grant(scope, user.id, role, now), KeyRow(key_id, sha256, user.id, scope, role, now),
            act=site.top.actor.act("joined", user.id),
        )  # fmt: skip
        return text

    return key_of
