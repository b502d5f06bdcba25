"""Attacks on who may do what (A1-A7, P1, P5, P7, J4-J6, I1, E1 as far as accounts go), each a test;
docs/security.md counts them.

The matrix (A1-A3 on every route) is in test_matrix, logins (A6, A7, N1 of providers) in test_login.
"""

from __future__ import annotations

import json
import logging
import statistics
import time

import pytest

from luthier.app.site import Site
from luthier.governance.access import SITE
from luthier.server.denials import Denials
from luthier.server.openai import Limits
from luthier.server.platform.make import create_platform
from luthier.server.rates import Rate

V = "/luthier/v1"

# -- A4, A6: what is sent as a key ----------------------------------------------------------------------------------------

CREDENTIALS = {
    "sql": b"Bearer ' OR '1'='1' --", "sql union": b"Bearer x' UNION SELECT sha256 FROM api_keys --",
    "latin": b"Bearer \xff\xfe\xfd", "empty": b"Bearer ", "scheme": b"Basic bHV0aGllcjp4", "twice": b"Bearer a, Bearer b",
    "long": b"Bearer " + b"a" * 30_000, "percent": b"Bearer %00%0d%0a", "tab": b"Bearer\tx",
    "jwt none": b"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.", "null": b"Bearer null", "like": b"Bearer luthier_%_%_%",
}  # fmt: skip


@pytest.mark.parametrize("credential", CREDENTIALS.values(), ids=CREDENTIALS)
def test_a4_what_is_no_key(world, credential):
    answer = world.client.get(f"{V}/me", headers={b"authorization": credential})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_a4_a_wrong_secret_takes_as_long_as_a_wrong_id(world):
    """The same class: nothing is compared byte by byte, and both look into the records (medians of 30, within a factor of 3)."""
    from luthier.core import keys

    right = world.keys["viewer"]
    body = right[: -len("_12345678")]
    wrong_secret = body[:-1] + ("a" if body[-1] != "a" else "b")
    texts = {"secret": f"{wrong_secret}_{keys._checksum(wrong_secret)}", "id": keys.generate()[0]}
    took = {name: [] for name in texts}
    for _ in range(30):
        for name, text in texts.items():
            began = time.perf_counter()
            assert world.site.check(text) is None
            took[name].append(time.perf_counter() - began)
    slow, fast = sorted(map(statistics.median, took.values()), reverse=True)
    assert slow < 3 * fast


@pytest.mark.parametrize("where", ["api_key", "key", "access_token", "authorization"])
def test_a6_a_key_in_the_address_opens_nothing(world, where):
    answer = world.client.get(f"{V}/me?{where}={world.keys['admin']}")
    assert answer.status_code == 401 and world.keys["admin"] not in answer.text


@pytest.mark.parametrize("project", ["' OR 1=1 --", "../" * 5, "proj_%", "x" * 9_000, "site", "*", "\u00e4"])
def test_a3_a_project_that_is_none(world, project):
    answer = world.ask(
        "GET", f"{V}/me", world.keys["site"], headers={b"openai-project": project.encode("latin-1")}
    )
    assert answer.status_code == 401


def test_a3_two_projects_at_once(world):
    headers = [
        ("authorization", f"Bearer {world.keys['site']}"),
        ("openai-project", world.a.project),
        ("openai-project", world.b.project),
    ]
    assert world.client.get(f"{V}/me", headers=headers).status_code == 401


def test_a6_a_key_that_is_ended_is_dead_everywhere_within_two_seconds(fresh):
    """A second process on the same home, which has seen the key a moment ago."""
    from fastapi.testclient import TestClient

    key = fresh.site.accounts.keys.create(fresh.a, scope=fresh.a.project, title="leaked")
    elsewhere = Site.open(fresh.site.environ)
    with TestClient(create_platform(elsewhere, {}, limits=Limits()), base_url="http://127.0.0.1:1") as other:

        def ask(client):
            return client.get(f"{V}/me", headers={"authorization": f"Bearer {key.text}"}).status_code

        assert ask(other) == 200 and ask(fresh.client) == 200
        assert fresh.ask("DELETE", f"{V}/keys/{key.key.id}", fresh.keys["admin"]).status_code == 200
        ended_s = time.monotonic()
        while ask(other) != 401:
            assert time.monotonic() - ended_s < 2.0
            time.sleep(0.02)
        time.sleep(1.0)
        assert ask(fresh.client) == 401


def test_a6_a_key_that_expires_while_it_is_remembered(fresh):
    key = fresh.site.accounts.keys.create(
        fresh.a, scope=fresh.a.project, title="short", expires_s=time.time() + 0.4
    )
    assert fresh.ask("GET", f"{V}/me", key.text).status_code == 200
    time.sleep(0.45)
    assert fresh.ask("GET", f"{V}/me", key.text).status_code == 401


# -- A7: pages of others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:2",
        "https://127.0.0.1",
        "http://127.0.0.1:1.evil.example",
    ],
)
def test_a7_other_origins(world, origin):
    answer = world.ask(
        "POST", f"{V}/keys", world.keys["admin"], headers={"origin": origin}, json={"title": "x"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "169.254.169.254", "[::ffff:1.2.3.4]", ""]
)
def test_a7_other_hosts(world, host):
    for path in (f"{V}/me", f"{V}/login", f"{V}/login/callback"):
        answer = world.ask("GET", path, world.keys["admin"], headers={"host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")


def test_a7_a_preflight_is_answered_as_anything_without_a_key(world):
    answer = world.client.options(
        f"{V}/keys", headers={"origin": "http://127.0.0.1:1", "access-control-request-method": "POST"}
    )
    assert answer.status_code == 401


# -- P1, P5, P7, I1, J4: what is sent in fields ---------------------------------------------------------------------------

PATHS = [
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f",
    "%252e%252e%252f",
    "..%5c..%5c",
    "file:%2f%2f%2fetc",
    "%2f%2fhost%2fx",
    "%00",
    "a" * 300,
    "' OR 1=1",
]


@pytest.mark.parametrize("name", PATHS)
def test_p1_ids_that_are_paths(world, name):
    for method, path in (
        ("GET", "projects/{}"), ("DELETE", "projects/{}"), ("GET", "organisations/{}"), ("GET", "users/{}"), ("GET", "keys/{}"),
        ("DELETE", "keys/{}"), ("DELETE", "grants/{}/x/admin"), ("GET", "users?scope={}"), ("GET", "grants?scope={}"), ("GET", "keys?scope={}"),
    ):  # fmt: skip
        answer = world.ask(method, f"{V}/{path.format(name)}", world.keys["site"])
        assert answer.status_code in (400, 404, 405), (method, path, answer.text)


@pytest.mark.parametrize("field", ["scope", "user", "role"])
@pytest.mark.parametrize("value", ["../x", "' OR 1=1 --", "\x00", "proj_%", "x" * 64, "site'--", "\u202e"])
def test_p1_grants_of_nothing(world, field, value):
    body = {"scope": world.a.project, "user": world.a.user, "role": "viewer", field: value}
    answer = world.ask("POST", f"{V}/grants", world.keys["site"], json=body)
    assert answer.status_code in (400, 404), answer.text
    assert "\x00" not in answer.text and "\u202e" not in answer.text  # escaped, as all JSON of errors is


INERT = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "$(touch /tmp/x)",
]


@pytest.mark.parametrize("title", INERT)
def test_p5_text_stays_text(fresh, title):
    made = fresh.ask("POST", f"{V}/keys", fresh.keys["admin"], json={"title": title})
    assert made.status_code == 201 and made.json()["title"] == title
    assert (
        made.headers["content-type"] == "application/json"
        and made.headers["x-content-type-options"] == "nosniff"
    )


@pytest.mark.parametrize(
    "title", ["a\r\nSet-Cookie: x=y", "\x1b[2J", "\u202etxt", "\u2066x", "a\u0000", "\ufeff", "\u00ad", "  "]
)
@pytest.mark.parametrize("path", ["keys", "users", "service_accounts", "projects", "organisations"])
def test_p7_j6_names_that_hide_something(world, path, title):
    bodies = {
        "keys": {"title": title}, "projects": {"title": title, "organisation": world.a.organisation}, "organisations": {"title": title},
        "users": {"name": title, "scope": world.a.project, "role": "viewer"},
        "service_accounts": {"name": title, "scope": world.a.project, "role": "viewer"},
    }  # fmt: skip
    answer = world.ask(
        "POST",
        f"{V}/{path}",
        world.keys["site"],
        json={"scope": world.a.project, **bodies[path]} if path == "keys" else bodies[path],
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value"), answer.text


def test_p7_names_that_look_the_same(fresh):
    for title, status in (
        ("Cafe\u0301", 201),
        ("caf\u00e9", 409),
        ("CAF\u00c9", 409),
        ("\uff43af\u00e9", 409),
    ):
        made = fresh.ask(
            "POST",
            f"{V}/projects",
            fresh.keys["organisation"],
            json={"title": title, "organisation": fresh.a.organisation},
        )
        assert made.status_code == status, made.text


RAW = {
    "deep": b"[" * 100_000, "nan": b'{"title": NaN}', "big": b'{"expires_at": ' + b"9" * 5_000 + b"}", "1e999": b'{"expires_at": 1e999}',
    "surrogate": b'{"title": "\\ud800"}', "twice": b'{"title": "a", "title": "b"}', "list": b"[]", "empty": b"", "latin": b'{"title": "\xff"}',
}  # fmt: skip


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_i1_bodies_that_are_no_json(world, raw):
    for method, path in (
        ("POST", "keys"),
        ("POST", "grants"),
        ("PATCH", f"projects/{world.a.project}"),
        ("POST", "audit/verify"),
    ):
        answer = world.client.request(
            method,
            f"{V}/{path}",
            content=raw,
            headers={"authorization": f"Bearer {world.keys['admin']}", "content-type": "application/json"},
        )
        assert answer.status_code in (400, 413), answer.text


def test_i1_too_much_and_of_the_wrong_kind(world):
    head = {"authorization": f"Bearer {world.keys['admin']}"}
    large = world.client.post(
        f"{V}/keys", content=b"x" * 100_000, headers={**head, "content-type": "application/json"}
    )
    assert large.status_code == 413
    assert (
        world.client.post(
            f"{V}/keys", content=b"{}", headers={**head, "content-type": "text/plain"}
        ).status_code
        == 415
    )


VALUES = [
    ("expires_at", -1), ("expires_at", 0), ("expires_at", 2**63), ("expires_at", 1.5), ("expires_at", "1"), ("expires_at", True),
    ("permissions", []), ("permissions", ["everything"]), ("permissions", ["chat"] * 101), ("permissions", "chat"), ("permissions", [1]),
    ("title", 1), ("title", "x" * 10_000), ("scope", ""), ("scope", "x" * 100), ("user", []), ("sha256", "0" * 64), ("id", "aaaaaaaa"), ("admin", True),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), VALUES)
def test_j4_values_that_cannot_be(world, field, value):
    answer = world.ask("POST", f"{V}/keys", world.keys["admin"], json={"title": "x", field: value})
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=1001",
        "limit=x",
        "limit=1&limit=2",
        "nothing=1",
        "limit=" + "9" * 5_000,
        "limit=%D9%A1",
    ],
)
def test_j4_pages_that_cannot_be(world, query):
    for path in ("users", "keys", "projects", "grants", "audit"):
        assert world.ask("GET", f"{V}/{path}?{query}", world.keys["admin"]).status_code == 400


# -- J5: too much ---------------------------------------------------------------------------------------------------------


def test_j5_a_flood_of_one_key_and_of_one_project(tmp_path, built):
    made = built(
        Site.open({"LUTHIER_HOME": str(tmp_path / "site")}),
        Limits(calls=Rate.parse("5/h"), together=Rate.parse("8/h")),
    )
    with made.client:
        got = [made.ask("GET", f"{V}/me", made.keys["viewer"]) for _ in range(6)]
        assert [one.status_code for one in got] == [200] * 5 + [429]
        assert (
            int(got[-1].headers["retry-after"]) > 0
            and got[-1].json()["error"]["code"] == "rate_limit_exceeded"
        )
        assert made.keys["viewer"] not in got[-1].text
        rest = [made.ask("GET", f"{V}/me", made.keys["trainer"]).status_code for _ in range(3)]
        assert rest == [200, 200, 429]  # of the project's eight
        assert made.ask("GET", f"{V}/me", made.keys["of b"]).status_code == 200


# -- A2, E1: what is kept -------------------------------------------------------------------------------------------------


def test_a2_what_was_denied_is_in_the_trail(fresh):
    with Denials(lambda sums: fresh.site.denied(sums.items()), every_s=1_000) as denials:
        from fastapi.testclient import TestClient

        app = create_platform(fresh.site, {}, limits=Limits(), observers=[denials])
        with TestClient(app, base_url="http://127.0.0.1:1") as client:

            def ask(key, **more):
                return client.post(f"{V}/grants", json={}, headers={"authorization": f"Bearer {key}", **more})

            assert ask(fresh.keys["viewer"]).status_code == 403
            assert ask(fresh.keys["revoked"]).status_code == 401
            assert ask(fresh.keys["admin"], **{"openai-project": fresh.b.project}).status_code == 401
            made = client.post(
                f"{V}/organisations",
                json={"title": "mine"},
                headers={"authorization": f"Bearer {fresh.keys['admin']}"},
            )
            assert made.status_code == 403  # by the verb, not by the guard
    found = [
        (e.entry.actor, e.entry.subject, e.entry.data)
        for e in fresh.site.top.audit.read()
        if e.entry.outcome == "denied"
    ]
    viewer = fresh.site.check(fresh.keys["viewer"]).key_id
    facts = {"code": "insufficient_permissions", "times": 1, "project": fresh.a.project}
    assert (f"key:{viewer}", f"POST {V}/grants", facts) in found
    assert ("nobody", f"POST {V}/grants", {"code": "invalid_api_key", "times": 2}) in found
    assert (f"key:{fresh.a.key_id}", f"POST {V}/organisations", {**facts, "code": "not_allowed"}) in found
    told = fresh.ask("GET", f"{V}/audit?trail=site&action=request", fresh.keys["auditor"]).json()["data"]
    assert {one["subject"] for one in told} == {f"POST {V}/grants", f"POST {V}/organisations"}


def test_audit_of_a_project_and_of_the_site(fresh):
    verify = lambda key, trail: fresh.ask("POST", f"{V}/audit/verify", fresh.keys[key], json={"trail": trail})  # noqa: E731
    fresh.site.app(fresh.a).audit.served("started", ["a@1"], "here")
    own = fresh.ask("GET", f"{V}/audit", fresh.keys["auditor"]).json()["data"]
    assert [one["action"] for one in own] == ["serving.started"]
    assert verify("auditor", "project").json()["sound"] is True
    assert verify("auditor", "site").status_code == 403
    assert verify("site", "site").json()["entries"] > 10
    of_site = fresh.ask("GET", f"{V}/audit?trail=site&limit=3", fresh.keys["auditor"]).json()
    assert of_site["has_more"] and len(of_site["data"]) == 3
    after = of_site["data"][-1]["id"]
    rest = fresh.ask("GET", f"{V}/audit?trail=site&limit=1000&after={after}", fresh.keys["auditor"]).json()
    whole = [*of_site["data"], *rest["data"]]
    assert not [one for one in whole if fresh.b.project in json.dumps(one) or fresh.b.user in json.dumps(one)]
    assert len({one["id"] for one in whole}) == len(whole)
    assert fresh.ask("GET", f"{V}/audit?trail=site", fresh.keys["viewer"]).status_code == 403


def test_e1_no_key_is_anywhere_but_in_the_answer_that_made_it(fresh, caplog, tmp_path):
    """Keys that were made, used, sent wrongly and into wrong places are searched for in all that is kept, logged and answered."""
    caplog.set_level(logging.DEBUG)
    made = fresh.ask("POST", f"{V}/keys", fresh.keys["admin"], json={"title": "canary"}).json()
    rotated = fresh.ask("POST", f"{V}/keys/{made['id']}/rotate", fresh.keys["admin"]).json()
    canaries = {*fresh.keys.values(), made["key"], rotated["key"]}
    answers = []
    for key in canaries:
        for method, path in (
            ("GET", "me"),
            ("GET", "keys"),
            ("GET", "audit?trail=site"),
            ("POST", "keys"),
            ("GET", f"users/{key}"),
            ("GET", f"nowhere/{key}"),
        ):
            answers.append(fresh.ask(method, f"{V}/{path}", key))
        answers.append(
            fresh.ask(
                "POST", f"{V}/keys", fresh.keys["admin"], json={"title": "x", "permissions": [key[:64]]}
            )
        )
    for answer in answers:
        assert not [
            k
            for k in canaries
            if secret_of(k) in answer.text
            and k not in str(answer.request.url)
            and secret_of(k) not in answer.request.content.decode()
        ]
    files = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    kept = b"".join(path.read_bytes() for path in files)
    assert len(files) > 5 and fresh.a.key_id.encode() in kept
    for key in canaries:
        assert secret_of(key).encode() not in kept
        assert secret_of(key) not in "\n".join(
            r.getMessage() for r in caplog.records if not r.name.startswith("httpx")
        )
    assert secret_of(made["key"]) not in repr(fresh.site.check(rotated["key"]))


def secret_of(key):
    return key.split("_")[2]


def test_when_a_key_was_used_is_known_and_written_once_a_minute(fresh, monkeypatch):
    written, write = [], fresh.site.store.accounts.used
    monkeypatch.setattr(
        fresh.site.store.accounts, "used", lambda keys: written.append(dict(keys)) or write(keys)
    )
    monkeypatch.setattr("luthier.server.platform.ring.GATHER_S", 0.1)
    for _ in range(3):
        fresh.ask("GET", f"{V}/me", fresh.keys["viewer"])
    viewer = fresh.site.check(fresh.keys["viewer"]).key_id
    for _ in range(100):
        found = fresh.ask("GET", f"{V}/keys/{viewer}", fresh.keys["admin"]).json()
        if found["last_used_at"] is not None:
            break
        time.sleep(0.02)
    assert abs(found["last_used_at"] - time.time()) < 10
    time.sleep(0.3)
    assert sorted(key for keys in written for key in keys) == sorted(
        {key for keys in written for key in keys}
    )
    assert viewer in [key for keys in written for key in keys]


def test_a2_privileges_cannot_be_climbed(fresh):
    """From each role, each way up that there is over HTTP."""
    site_scope, project = SITE, fresh.a.project
    me = {
        role: fresh.site.check(fresh.keys[role]).user
        for role in ("viewer", "annotator", "trainer", "deployer", "auditor")
    }
    for role, user in me.items():
        key = fresh.keys[role]
        tries = [
            ("POST", "grants", {"scope": project, "user": user, "role": "admin"}),
            ("POST", "grants", {"scope": site_scope, "user": user, "role": "admin"}),
            ("POST", "users", {"name": "x", "scope": project, "role": "admin"}),
            ("POST", "service_accounts", {"name": "x", "scope": project, "role": "viewer"}),
            ("POST", "keys", {"title": "x", "permissions": ["members.write"]}),
            ("POST", "keys", {"title": "x", "scope": site_scope}),
            ("POST", "keys", {"title": "x", "user": fresh.a.user}),
            ("POST", f"keys/{fresh.a.key_id}/rotate", {}),
            ("DELETE", f"keys/{fresh.a.key_id}", None),
            ("DELETE", f"users/{fresh.a.user}", None),
            ("PATCH", f"projects/{project}", {"title": "mine"}),
            ("POST", f"users/{fresh.a.user}/erase", {"because": "x"}),
        ]
        for method, path, body in tries:
            answer = fresh.ask(method, f"{V}/{path}", key, json=body)
            assert answer.status_code in (403, 404), (role, method, path, answer.text)
    admin = fresh.keys["admin"]
    for method, path, body in (
        ("POST", "grants", {"scope": site_scope, "user": fresh.a.user, "role": "admin"}),
        ("POST", "grants", {"scope": fresh.a.organisation, "user": fresh.a.user, "role": "admin"}),
        ("POST", "organisations", {"title": "mine"}),
        ("POST", "keys", {"title": "x", "scope": fresh.a.organisation}),
        ("POST", "keys", {"title": "x", "scope": fresh.b.project}),
        ("POST", "users", {"name": "x", "scope": fresh.b.project, "role": "viewer"}),
    ):  # fmt: skip
        assert fresh.ask(method, f"{V}/{path}", admin, json=body).status_code in (403, 404)
    alone = f"{V}/grants/{fresh.b.project}/{fresh.b.user}/admin"
    assert fresh.ask("DELETE", alone, fresh.keys["of b"]).status_code == 409
