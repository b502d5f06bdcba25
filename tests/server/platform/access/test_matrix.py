"""Every route × every kind of key × both tenants, made from the table: a route that nobody gave a permission, or that this does not reach,
fails it. Routes that are added are in it by themselves."""

from __future__ import annotations

import re

import pytest

from luthier.governance.access import KNOWN, PERMISSIONS, ROLES, permissions_of
from luthier.server.platform.make import create_platform, parts
from luthier.server.routes import PUBLIC, TABLE

STRANGERS = {
    "nothing": None,
    "garbage": "luthier_aaaaaaaa_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa_00000000",
    "sql": "' OR 1=1 --",
}
OPEN = {"/healthz", "/luthier/v1/login", "/luthier/v1/login/callback"}
"""What needs no key: health and the two ends of a login."""
ANY_KEY = {"/luthier/v1/me", "/luthier/v1/logout"}


@pytest.fixture(scope="module")
def routes(world):
    return [*TABLE, *(route for part in parts(world.site) for route in part.routes)]


def test_every_route_of_the_app_is_in_the_table_and_names_a_permission(world, routes):
    app = create_platform(world.site, {})
    assert {(m, r.path) for r in app.routes for m in r.methods} == {(r.method, r.path) for r in routes}
    assert len({(r.method, r.path) for r in routes}) == len(routes)
    for route in routes:
        known = route.permission in PERMISSIONS or route.permission in (KNOWN, PUBLIC)
        assert known, f"{route.method} {route.path} asks for {route.permission!r}, which nobody can hold"
    assert {r.path for r in routes if r.permission is PUBLIC} <= OPEN
    assert {r.path for r in routes if r.permission == KNOWN} <= ANY_KEY


def held_by(name):
    """What each kind of key holds in its project (and anywhere, which is the same for keys of one project)."""
    return {
        "reduced": permissions_of(["admin"], ["chat"]),
        "site": ROLES["admin"],
        "organisation": ROLES["admin"],
    }.get(name, ROLES.get(name, frozenset()))


def test_route_times_role_times_tenant(world, routes, ids_of, capsys):
    count, wrong = 0, []
    tenants = (None, world.a.project, world.b.project) if world.site.store.database.is_sqlite else (None,)
    ids = dict.fromkeys(ids_of(world.site, world.a), "missing")
    for route in routes:
        path = world.path(route, ids)
        for name, text in {**STRANGERS, **world.keys}.items():
            for tenant in tenants:
                headers = {} if tenant is None else {"openai-project": tenant}
                answer = world.ask(route.method, path, text, headers=headers)
                count += 1
                if not fits(route, name, tenant, world, answer):
                    wrong.append(
                        f"{route.method} {path} by {name} in {tenant}: {answer.status_code} {answer.text[:200]}"
                    )
    assert not wrong, "\n".join(wrong)
    with capsys.disabled():
        kinds = len(STRANGERS) + len(world.keys)
        print(
            f"\n{len(routes)} routes x {kinds} kinds of key x {len(tenants)} tenants: {count} requests, all as the table says"
        )
    assert count == len(routes) * (len(STRANGERS) + len(world.keys)) * len(tenants)


def fits(route, name, tenant, world, answer) -> bool:
    status = answer.status_code
    code = answer.json().get("error", {}).get("code") if status >= 400 and answer.content else None
    if route.method == "HEAD":  # an answer without a body
        code = {401: "invalid_api_key", 403: "insufficient_permissions"}.get(status)
    if status == 503 and route.path == "/healthz":
        return True
    if status >= 500:
        return False
    if route.permission is PUBLIC:
        return status != 403
    if name in STRANGERS or name in ("expired", "revoked"):
        return (status, code) == (401, "invalid_api_key")
    if tenant is not None and not reaches(name, tenant, world):
        return (status, code) == (401, "invalid_api_key")
    if route.permission == KNOWN:
        return status not in (401, 403)
    held = ROLES["admin"] if name == "of b" else held_by(name)
    if route.permission not in held:
        return (status, code) == (403, "insufficient_permissions")
    if route.anywhere:  # and then asked for again in the scope that is named, which is the site's for some
        return status != 401 and (status != 403 or code == "insufficient_permissions")
    return status not in (401, 403)


def reaches(name, tenant, world) -> bool:
    if name == "of b":
        return tenant == world.b.project
    return name == "site" or tenant == world.a.project


def test_what_is_of_another_is_answered_as_what_is_not_there(world, routes, ids_of, bodies, missing, capsys):
    theirs = ids_of(world.site, world.b)
    count = 0
    for route in routes:
        named = [one for one in theirs if f"{{{one}" in route.path and one != "role"]
        if not named or route.permission is PUBLIC:
            continue
        body = bodies.get((route.method, route.path), {})
        nowhere = {**theirs, **{one: missing(theirs[one]) for one in named}}
        sent = None if route.method in ("GET", "DELETE") else body
        answers = [
            world.ask(route.method, world.path(route, ids), world.keys["admin"], json=sent)
            for ids in (theirs, nowhere)
        ]
        there, not_there = answers
        assert there.status_code == not_there.status_code in (404, 400, 403), (
            route,
            there.text,
            not_there.text,
        )
        told = there.text
        for one in named:
            told = told.replace(theirs[one], nowhere[one])
        assert told == not_there.text, route
        headers = [
            {k: v for k, v in one.headers.items() if not re.match(r"x-request-id|openai-processing", k)}
            for one in answers
        ]
        assert headers[0] == headers[1]
        count += 1
    assert count >= 10
    with capsys.disabled():
        print(f"\n{count} routes name an object of another tenant, and answer as if it were not there")
    still = world.ask("GET", "/luthier/v1/me", world.keys["of b"]).json()
    assert still["project"] == world.b.project and still["name"] == "admin of b"
    assert world.site.jobs.get(world.b, theirs["job_id"]).state == "queued"


def test_lists_of_one_tenant_hold_nothing_of_the_other(world, routes, ids_of):
    theirs = set(ids_of(world.site, world.b).values()) - {"viewer"}
    for route in routes:
        if route.method == "GET" and "{" not in route.path and route.permission is not PUBLIC:
            answer = world.ask("GET", route.path, world.keys["admin"])
            assert not [one for one in theirs if one and one in answer.text], route
            if route.anywhere and "scope" not in answer.text:
                foreign = world.ask("GET", f"{route.path}?scope={world.b.project}", world.keys["admin"])
                assert foreign.status_code in (400, 404), (route, foreign.text)
