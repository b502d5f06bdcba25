"""Deny by default: every route is in the table, and a stranger gets nowhere."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute

from luthier.server.guard import Envelope, Guard
from luthier.server.keys import KeyRing, generate
from luthier.server.openai import create_app
from luthier.server.routes import PERMISSIONS, PUBLIC, TABLE
from luthier.serving.scripted_engine import ScriptedEngine


def test_every_route_of_the_app_has_a_declared_permission():
    app = create_app({}, KeyRing([]))
    found = set()
    for route in app.routes:
        assert isinstance(route, APIRoute), (
            f"{route!r} is not an ordinary route: mounts and sockets are not guarded"
        )
        found |= {(method, route.path) for method in route.methods}
    assert found == {(route.method, route.path) for route in TABLE}
    assert [r.path for r in TABLE if r.permission is PUBLIC] == ["/healthz"]
    assert {"chat", "models.read", "feedback", "metrics", "status"} == PERMISSIONS


def test_the_guard_stands_in_front():
    app = create_app({}, KeyRing([]))
    assert [layer.cls for layer in app.user_middleware] == [Envelope, Guard]


PATHS = [("GET", "/"), ("GET", "/docs"), ("GET", "/redoc"), ("GET", "/openapi.json"), ("GET", "/metrics"), ("GET", "/nowhere"),
         ("OPTIONS", "/v1/models"), ("DELETE", "/v1/models/router"), ("GET", "//v1/models"), ("GET", "/v1/../healthz/x"),
         ("GET", "/v1/chat/completions"), ("POST", "/healthz")]  # fmt: skip


@pytest.fixture(scope="module")
def door(open_door):
    return open_door(ScriptedEngine())


@pytest.mark.parametrize(("method", "path"), [*PATHS, *((r.method, r.path) for r in TABLE if r.permission)])
def test_a_stranger_gets_401_whatever_he_asks_for(door, method, path):
    response = door.http(headers={"authorization": ""}).request(method, path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith(
        "Basic" if path.startswith("/status") else "Bearer"
    )
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["x-request-id"].startswith("req_")


def test_health_tells_a_stranger_nothing_but_itself(door):
    response = door.http(headers={"authorization": ""}).get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "server" not in response.headers


def credentials(door):
    key, other = door.key.encode(), generate()[0].encode()
    return [
        b"", b"Bearer", b"Bearer ", b"Basic " + key, key, b"Bearer " + other, b"Bearer " + key + b"x", b"Bearer " + key[:-1],
        b"Bearer " + key.upper(), b"Bearer ' OR 1=1 --", b"Bearer \x00", b"Bearer \xff\xfe", b"Bearer " + b"a" * 20_000,
        b"Bearer " + key + b"," + key,
    ]  # fmt: skip


def test_wrong_credentials(door):
    for credential in credentials(door):
        head = (
            b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: " + credential
        )
        received = door.raw(head + b"\r\n\r\n")
        expected = b"400" if b"\x00" in credential else b"401"  # NUL is not allowed in HTTP at all
        assert received.startswith(b"HTTP/1.1 " + expected), credential[:40]
        assert b'{"error": {"message": ' in received
    doubled = door.http().get("/v1/models", headers=[("authorization", f"Bearer {door.key}")] * 2)
    assert doubled.status_code == 401
    in_query = door.http(headers={"authorization": ""}).get(f"/v1/models?api_key={door.key}")
    assert in_query.status_code == 401


def test_a_head_of_a_megabyte(door):
    response = door.http(headers={"authorization": "Bearer " + "a" * 1_000_000}).get("/v1/models")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_http"


def test_with_a_key_unknown_routes_and_methods_answer_in_the_envelope(door):
    missing = door.http().get("/nowhere")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_route")
    wrong = door.http().delete("/v1/models/router")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET"
    assert door.http().get("/v1/models/").json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8000",
        "[::2]",
        "",
        "a@b",
        "[",
        "localhost/",
        "localhost:x",
        "evil@localhost",
        "[::1",
        "localhost, evil.example",
        "router",
    ],
)
def test_foreign_hosts(door, host):
    response = door.http(headers={"host": host}).get("/v1/models")
    assert (response.status_code, response.json()["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "127.9.9.9", "[::1]:80"])
def test_names_of_this_machine(door, host):
    assert door.http(headers={"host": host}).get("/v1/models").status_code == 200


def test_hosts_that_were_allowed(open_door):
    door = open_door(ScriptedEngine(), allowed_hosts=["Models.internal"])
    assert door.http(headers={"host": "models.internal:443"}).get("/v1/models").status_code == 200
    assert door.http(headers={"host": "other.internal"}).get("/v1/models").status_code == 403


def test_pages_of_other_origins(door):
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://[", "file://", ""):
        response = door.http(headers={"origin": origin}).post("/v1/chat/completions", json={})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert door.http(headers={"origin": door.url}).get("/v1/models").status_code == 200
