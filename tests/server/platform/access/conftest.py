"""Two tenants, every role, every state of a key: what the tests of access are made with.

`EXAMPLES` gives, for a parameter of a path, the id of something that exists in a project; whoever adds routes over objects adds a line.
`BODIES` gives a body that a route would take, where `{}` is not enough to get as far as the object.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from fastapi.testclient import TestClient

from luthier.app.site import Caller, Site
from luthier.governance.access import ROLES, SITE
from luthier.server.openai import Limits
from luthier.server.platform.make import create_platform
from luthier.server.routes import Route

EXAMPLES: dict[str, Callable[[Site, Caller], str]] = {
    "organisation_id": lambda site, admin: admin.organisation,
    "project_id": lambda site, admin: admin.project,
    "scope": lambda site, admin: admin.project,
    "user_id": lambda site, admin: admin.user,
    "role": lambda site, admin: "viewer",
    "key_id": lambda site, admin: admin.key_id,
    "job_id": lambda site, admin: site.jobs.submit(admin, "fine_tune", {"n": 1}).id,
}
BODIES: dict[tuple[str, str], dict] = {
    ("PATCH", "/luthier/v1/organisations/{organisation_id}"): {"title": "mine now"},
    ("PATCH", "/luthier/v1/projects/{project_id}"): {"title": "mine now"},
    ("PATCH", "/luthier/v1/users/{user_id}"): {"name": "mine now"},
    ("POST", "/luthier/v1/users/{user_id}/erase"): {"because": "mine now"},
}
PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")


@dataclass
class World:
    site: Site
    client: TestClient
    a: Caller
    b: Caller
    keys: dict[str, str] = field(default_factory=dict)
    """What each key's text is called: a role, `reduced`, `expired`, `revoked`, `of b`, `organisation`, `site`."""

    def ask(self, method: str, path: str, key: str | None, **more):
        headers = {**({} if key is None else {"authorization": f"Bearer {key}"}), **more.pop("headers", {})}
        body = more.pop("json", None if method in ("GET", "DELETE") else {})
        return self.client.request(method, path, headers=headers, json=body, follow_redirects=False, **more)

    def path(self, route: Route, ids: dict[str, str]) -> str:
        return PARAMETER.sub(lambda m: ids.get(m[1], "missing"), route.path)


def missing_like(known: str) -> str:
    """An id of the same form that nothing has."""
    return re.sub(r"[0-9a-z]", "0", known) if "_" not in known else known.partition("_")[0] + "_" + "0" * 24


def build(site: Site, limits: Limits = Limits()) -> World:  # noqa: B008
    first = site.found()
    operator, verbs = site.operator(), site.accounts
    root = site.check(first)
    organisation = verbs.create_organisation(operator, "the other one")
    project = verbs.create_project(operator, organisation.id, "theirs")
    sides = {}
    for name, where in {"a": root.project, "b": project.id}.items():
        user = verbs.create_user(operator, "person", f"admin of {name}", scope=where, role="admin")
        made = verbs.keys.create(operator, scope=where, title=name, user=user.id)
        sides[name] = made.text, site.check(made.text)
    (a_text, a), (b_text, b) = sides["a"], sides["b"]
    keys = {"admin": a_text, "of b": b_text}
    for role in ROLES:
        if role != "admin":
            user = verbs.create_user(operator, "service", role, scope=a.project, role=role)
            keys[role] = verbs.keys.create(operator, scope=a.project, title=role, user=user.id).text
    made = lambda title, **more: verbs.keys.create(  # noqa: E731
        operator, **{"scope": a.project, "title": title, "user": a.user, **more}
    )
    keys["reduced"] = made("reduced", permissions=["chat"]).text
    revoked = made("revoked")
    verbs.keys.end(operator, revoked.key.id)
    keys["revoked"] = revoked.text
    expired = made("expired", expires_s=time.time() + 0.05)
    time.sleep(0.06)
    keys["expired"] = expired.text
    boss = verbs.create_user(operator, "person", "boss", scope=a.organisation, role="admin")
    keys["organisation"] = made("org", scope=a.organisation, user=boss.id).text
    keys["site"] = made("site", scope=SITE, user=root.user).text
    client = TestClient(
        create_platform(site, {}, limits=limits), base_url="http://127.0.0.1:1", raise_server_exceptions=False
    )
    return World(site, client, a, b, keys)


@pytest.fixture(
    scope="module",
    params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgres, pytest.mark.slow])],
)
def world(request, tmp_path_factory):
    """One that no test changes, in both databases."""
    environ = {"LUTHIER_HOME": str(tmp_path_factory.mktemp("world") / "site")}
    if request.param == "postgresql":
        folder, run = request.getfixturevalue("postgres_server")
        name = f"w{uuid.uuid4().hex[:12]}"
        run("psql", "-h", folder, "-U", "luthier", "-d", "postgres", "-c", f"create database {name}")
        environ["LUTHIER_DATABASE"] = f"postgresql://luthier@/{name}?host={folder}"
    made = build(Site.open(environ))
    with made.client:
        yield made


@pytest.fixture
def fresh(tmp_path):
    """One that a test may change."""
    made = build(Site.open({"LUTHIER_HOME": str(tmp_path / "site")}))
    with made.client:
        yield made


@pytest.fixture(scope="module")
def ids_of():
    def examples(site: Site, admin: Caller) -> dict[str, str]:
        return {name: find(site, admin) for name, find in EXAMPLES.items()}

    return examples


@pytest.fixture(scope="module")
def bodies():
    return BODIES


@pytest.fixture(scope="module")
def missing():
    return missing_like


@pytest.fixture(scope="module")
def built():
    return build
