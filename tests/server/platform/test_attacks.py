"""Attacks on every field of every route of the platform, made from what `GET /openapi.json` says of them: a route or a field that is added is
attacked by itself. What a field may be is its schema's; here is what no field may be, and what no answer may do.

    sound(schema)     a small value that a schema allows          spots(schema)    every place in a body where a text or a number stands

Attacks on accounts and keys are in access/test_attacks, on logins in access/test_login, on served models in tests/server/test_attacks.
"""

from __future__ import annotations

import json
import socket
import time
import uuid

import pytest
from fastapi.testclient import TestClient

from luthier.app.site import Site
from luthier.server import serve
from luthier.server.platform import asked
from luthier.server.platform.make import create_platform
from luthier.server.serve import running

PATHS = [
    "../canary", "..\\canary", "%2e%2e%2fcanary", "%252e%252e%252fcanary", "/etc/passwd", "file:///etc/passwd", "//host/x", "a\x00b",
    "n" * 300, "a\r\nx: y", "\u202egpj.exe", "' OR 1=1 --",
]  # fmt: skip
FILTERS = {"action", "actor", "subject", "owner", "purpose", "tags"}
"""Fields that choose among what is there: what nothing has, finds nothing."""
TEXTS = {
    "title", "name", "because", "reason", "recipe", "yaml", "text", "instruction", "model_sample", "grader", "item", "item_schema", "content",
    "user", "metadata", "x_luthier", "words", "comment", "correction", "why", "metric", "sets", "overrides", "where", "testing_criteria",
    "data_source_config", "data_source", "plan", "input", "reference", "messages", "md5", "containing",
}  # fmt: skip
"""Fields in which people write what they like, or which hold a document of its own: what stands there is kept, or read by rules of its own,
and shown as text. Every other field that takes an attack with a 2xx fails the test."""


class Described:
    """An OpenAPI description: its operations with bodies, and values for their schemas."""

    def __init__(self, told):
        self.told = told

    def __iter__(self):
        for path, methods in self.told["paths"].items():
            for method, operation in methods.items():
                yield method.upper(), path, operation

    def bodies(self):
        for method, path, operation in self:
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                yield method, path, content["application/json"]["schema"]

    def plain(self, schema):
        """Without a reference, and of several ways the first that is not null."""
        while True:
            if "$ref" in schema:
                schema = self.told["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            elif ways := schema.get("anyOf") or schema.get("oneOf"):
                schema = next(one for one in ways if one.get("type") != "null")
            else:
                return schema

    def sound(self, schema):
        schema = self.plain(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        kind = schema.get("type")
        if kind == "object":
            fields = schema.get("properties", {})
            return {name: self.sound(fields[name]) for name in schema.get("required", ()) if name in fields}
        if kind == "array":
            return [self.sound(schema["items"])] * schema.get("minItems", 0)
        if kind == "string":
            return "a" * max(1, schema.get("minLength", 1)) if "pattern" not in schema else "0" * 64
        return {"integer": 1, "number": 1.0, "boolean": False}.get(kind)

    def spots(self, schema, where=()):
        """(path of keys, plain schema) of each field."""
        schema = self.plain(schema)
        for name, field in schema.get("properties", {}).items():
            inner = self.plain(field)
            yield (*where, name), inner
            if len(where) < 2:
                yield from self.spots(inner, (*where, name))


def with_value(body, where, value):
    made = json.loads(json.dumps(body))
    at = made
    for name in where[:-1]:
        at = at.setdefault(name, {}) if isinstance(at.get(name, {}), dict) else {}
    at[where[-1]] = value
    return made


class Target:
    def __init__(self, folder, environ):
        self.folder, self.home = folder, folder / "site"
        (folder / "canary").write_text("untouched")
        self.site = Site.open({"LUTHIER_HOME": str(self.home), **environ})
        self.key = self.site.found()
        self.app = create_platform(self.site, {})
        head = {"authorization": f"Bearer {self.key}"}
        self.client = TestClient(
            self.app, base_url="http://127.0.0.1:1", headers=head, raise_server_exceptions=False
        )
        self.described = Described(self.client.get("/openapi.json").json())
        self.ids = {"scope": "project", "role": "viewer"}

    def place(self, path):
        """A path in which nothing that exists is named, so that bodies are read and nothing is lost."""
        for name in ("scope", "role"):
            path = path.replace(f"{{{name}}}", self.ids[name])
        return path.replace("{", "none-").replace("}", "")

    def send(self, method, path, **more):
        answer = self.client.request(method, self.place(path), follow_redirects=False, **more)
        check(answer, f"{method} {path}")
        return answer


def check(answer, where):
    """What holds of every answer, whatever was asked."""
    assert answer.status_code < 500, (where, answer.text)
    assert answer.headers["x-content-type-options"] == "nosniff", where
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], where
    assert not [name for name in answer.headers if name.startswith("access-control")], where
    if answer.status_code >= 400 and answer.content:
        assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}, where
        assert answer.headers["content-type"] == "application/json", where
        assert answer.text.isprintable(), (where, answer.text)


@pytest.fixture(
    scope="module",
    params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgres, pytest.mark.slow])],
)
def target(request, tmp_path_factory):
    """In both databases: what one takes for text (NUL), the other refuses."""
    environ = {}
    if request.param == "postgresql":
        folder, run = request.getfixturevalue("postgres_server")
        name = f"a{uuid.uuid4().hex[:12]}"
        run("psql", "-h", folder, "-U", "luthier", "-d", "postgres", "-c", f"create database {name}")
        environ["LUTHIER_DATABASE"] = f"postgresql://luthier@/{name}?host={folder}"
    made = Target(tmp_path_factory.mktemp("attacked"), environ)
    with made.client:
        yield made


def test_p1_a_path_in_every_field_leads_nowhere(target):
    """Names, paths and addresses: each text field of each body, optional ones too."""
    took, count = set(), 0
    for method, path, schema in target.described.bodies():
        body = target.described.sound(schema)
        for where, field in target.described.spots(schema):
            if field.get("type") != "string" or "enum" in field or "const" in field:
                continue
            free = bool(set(where) & TEXTS)
            for value in PATHS[count % 4 :: 4] if free else PATHS:
                count += 1
                answer = target.send(method, path, json=with_value(body, where, value))
                found_nothing = where[-1] in FILTERS and answer.json().get("result") == []
                if answer.status_code < 300 and not free and not found_nothing:
                    took.add((method, path, ".".join(where)))
    assert not took, "\n".join(map(str, sorted(took)))
    assert count > 1_000
    untouched(target)


def untouched(target):
    """Nothing was written beside the home, nor under a name that was sent."""
    assert sorted(one.name for one in target.folder.iterdir()) == ["canary", "site"]
    assert (target.folder / "canary").read_text() == "untouched"
    names = {part for one in target.home.rglob("*") for part in one.relative_to(target.home).parts}
    assert not {one for one in names if "canary" in one or "passwd" in one or "nnnn" in one or "gpj" in one}


def test_p1_p3_a_path_in_every_path_finds_nothing(target):
    """As an id, encoded once and twice, in every route that has one; deleting too."""
    count = 0
    for method, path, operation in target.described:
        names = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"]
        for name in names:
            for value in (
                "..%2f..%2fcanary",
                "%2e%2e",
                "%252e%252e%252fcanary",
                "..%5ccanary",
                "%00",
                "a" * 300,
                "x'%20OR%201=1",
            ):
                place = path.replace(f"{{{name}}}", value)
                more = {"json": {}} if method in ("POST", "PUT", "PATCH") else {}
                answer = target.send(method, place, **more)
                assert answer.status_code in (400, 403, 404, 405, 409, 415), (method, place, answer.text)
                count += 1
    assert count > 300
    untouched(target)


def test_p1_what_stands_behind_the_question_mark(target):
    for method, path, operation in target.described:
        for one in operation.get("parameters", ()):
            if one["in"] == "query":
                for value in PATHS:
                    target.send(method, path, params={one["name"]: value})
                twice = target.send(method, path, params=[(one["name"], "1"), (one["name"], "1")])
                assert twice.status_code in (400, 404), (method, path, one["name"])
    untouched(target)


OTHER = {
    "string": [1, True, [], {}], "integer": ["1", 1.5, True, [], {}, 10**20 - 1, -(10**19)], "number": ["1", True, [], {}], "boolean": ["true", 1, []],
    "array": ["a", 1, {}], "object": ["a", 1, []],
}  # fmt: skip


def test_i1_j4_values_of_another_kind_in_every_field(target):
    """Nothing is converted: a text is no number, a number no text. A whole number beyond 64 bits is one for no field."""
    count = 0
    for method, path, schema in target.described.bodies():
        body = target.described.sound(schema)
        for where, field in target.described.spots(schema):
            for value in OTHER.get(field.get("type"), ()):
                answer = target.send(method, path, json=with_value(body, where, value))
                many = several(target.described, schema, where)
                assert answer.status_code == 400 or many, (method, path, where, value, answer.text)
                count += 1
    assert count > 1_000


def several(described, schema, where):
    """Whether a field may be of several kinds: what is wrong for one is right for another."""
    for name in where:
        field = described.plain(schema)["properties"][name]
        if "$ref" not in field and len(field.get("anyOf", field.get("oneOf", ()))) > 1:
            kinds = [described.plain(one).get("type") for one in field.get("anyOf") or field["oneOf"]]
            if len([one for one in kinds if one != "null"]) > 1:
                return True
        schema = field
    return False


RAW = {
    "deep": b"[" * 100_000, "deep objects": b'{"a":' * 100_000, "closed": b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nan": b'{"a": NaN}',
    "inf": b'{"a": -Infinity}', "5000 digits": b'{"a": ' + b"9" * 5_000 + b"}", "1e999": b'{"a": 1e999}', "surrogate": b'{"a": "\\ud800"}',
    "surrogate as key": b'{"\\udfff": 1}', "twice": b'{"a": 1, "a": 2}', "list": b"[]", "empty": b"", "latin": b'{"a": "\xff"}',
    "utf-16": '{"a": 1}'.encode("utf-16"), "mark": b"\xef\xbb\xbf{}", "trailing": b"{}{}", "null": b"null",
}  # fmt: skip


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_i1_what_is_no_json_at_every_route(target, raw):
    for method, path, _ in target.described.bodies():
        answer = target.send(method, path, content=raw, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 413), (method, path, answer.text)


def test_i1_other_kinds_of_bodies_and_too_much_at_every_route(target):
    for method, path, operation in target.described:
        if "requestBody" not in operation:
            continue
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/xml", ""):
            answer = target.send(method, path, content=b"{}", headers={"content-type": kind})
            assert answer.status_code in (404, 415), (method, path, kind, answer.text)
        declared = {"content-type": "application/json", "content-length": "300000000000"}
        if "application/json" in operation["requestBody"]["content"]:
            assert target.send(method, path, content=b"", headers=declared).status_code == 413, (method, path)
            packed = {"content-type": "application/json", "content-encoding": "gzip"}
            assert target.send(method, path, content=b"\x1f\x8b", headers=packed).status_code == 415


def test_i2_a_field_that_is_not_there_is_refused_at_every_route(target):
    for method, path, schema in target.described.bodies():
        body = {**target.described.sound(schema), "chat_template_kwargs": {"tokenize": True}}
        assert target.send(method, path, json=body).status_code == 400, (method, path)


def test_i2_a_parameter_that_is_not_there_is_refused_at_every_route_of_ours(target):
    count = 0
    for method, path, _ in target.described:
        if path.startswith("/luthier/"):
            answer = target.send(method, path, params={"lmit": "1"})
            no_text = method == "HEAD" or answer.status_code == 404
            allowed = (400, 404) if "/login" in path else (400,)  # there is no provider
            assert answer.status_code in allowed, (method, path, answer.text)
            assert no_text or "'lmit'" in answer.text, (method, path, answer.text)
            count += 1
    assert count > 60


YAML = {
    "a tag of Python": "name: !!python/object/apply:os.system ['touch canary2']", "a tag": "name: !x y", "aliases": "a: &a [1]\nname: *a",
    "bomb": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b]", "merge": "a: &a {b: 1}\nname: {<<: *a}",
    "twice": "name: a\nname: b", "two documents": "name: a\n---\nname: b", "deep": "[" * 20_000, "deep flow": "{a: " * 20_000, "a list": "- a",
    "digits": "name: " + "9" * 5_000, "control": "name: a\x07b", "nan": "base: .nan", "only a text": "a", "nothing": "\n",
}  # fmt: skip


@pytest.mark.parametrize("yaml", YAML.values(), ids=YAML)
def test_j3_yaml_that_does_something(target, yaml):
    sent = {
        "POST /luthier/v1/jobs": {"recipe": yaml},
        "POST /luthier/v1/schedules": {"title": "x", "cron": "@daily", "recipe": yaml},
        "PUT /luthier/v1/policy/project": {"yaml": yaml, "reason": "x"},
        "POST /luthier/v1/do/recipes.plan": {"recipe": {"text": yaml}},
        "POST /luthier/v1/do/recipes.merge": {"written": {"text": yaml}},
    }
    for route, body in sent.items():
        method, _, path = route.partition(" ")
        began_s = time.monotonic()
        answer = target.send(method, path, json=body)
        assert answer.status_code == 400, (route, answer.text)
        assert time.monotonic() - began_s < 5
    untouched(target)


def test_j3_a_number_is_read_as_yaml_1_2_has_it(target):
    """`lr: 1e-4` is a number (of YAML 1.1 it were a text), and `no` a text."""
    recipe = "name: r\nbase: tiny\ndata: {sources: [{files: rows.jsonl, map: {user: a, label: b}}]}\ntrain: {learning_rate: 1e-4, epochs: %s}\n"
    wrong = target.send("POST", "/luthier/v1/jobs", json={"recipe": recipe % "no"})
    assert wrong.status_code == 400 and "learning_rate" not in wrong.text and "epochs" in wrong.text


HUGE = [
    "epochs=1000000000",
    "epochs=-1",
    "epochs=.nan",
    "epochs=.inf",
    "batch.size=1000000000",
    "learning_rate=-1",
    "learning_rate=.inf",
]


@pytest.mark.parametrize("setting", HUGE)
def test_j4_a_recipe_that_never_ends(target, setting):
    recipe = "name: r\nbase: tiny\ndata: {sources: [{files: rows.jsonl, map: {user: a, label: b}}]}\n"
    answer = target.send("POST", "/luthier/v1/jobs", json={"recipe": recipe, "sets": [f"train.{setting}"]})
    assert answer.status_code == 400 and "train" in answer.text, answer.text


def test_a1_a4_every_route_without_a_key_and_with_what_is_none(target):
    wrong = [None, b"Bearer ' OR 1=1 --", b"Bearer \xff\xfe", b"Bearer " + b"a" * 30_000, b"Basic eDp5", b"Bearer\t" + target.key.encode(),
             b"Bearer " + target.key.encode() + b"\xc2\xa0", target.key.encode()]  # fmt: skip
    stranger = TestClient(target.app, base_url="http://127.0.0.1:1", raise_server_exceptions=False)
    for method, path, operation in target.described:
        if "security" not in operation:
            continue
        for credential in wrong if method == "GET" else wrong[:3]:
            head = {} if credential is None else {b"authorization": credential}
            answer = stranger.request(method, target.place(path), headers=head, params={"key": target.key})
            assert answer.status_code == 401, (method, path, credential)
            check(answer, path)
            assert target.key not in answer.text


# -- over a real connection -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(target):
    app = create_platform(target.site, {})
    with running(app, head_timeout_s=2.0) as url:
        yield url


def connect(address):
    host, _, port = address.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def test_i1_a_body_that_does_not_come(target, address, monkeypatch):
    monkeypatch.setattr(asked, "BODY_TIMEOUT_S", 0.3)
    head = f"POST /luthier/v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {target.key}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
    with connect(address) as line:
        line.sendall(head.encode() + b'{"recipe"')
        assert line.recv(4_000).startswith(b"HTTP/1.1 408")


def test_i3_a_thousand_idle_connections(target, address):
    idle = [connect(address) for _ in range(1_000)]
    try:
        began_s = time.monotonic()
        head = f"GET /luthier/v1/me HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {target.key}\r\nconnection: close\r\n\r\n"
        with connect(address) as line:
            line.sendall(head.encode())
            assert line.recv(4_000).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began_s < 3
    finally:
        for one in idle:
            one.close()


def healthy(line):
    line.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    answer = b""
    while not answer.endswith(b"}"):
        more = line.recv(4_000)
        assert more
        answer += more
    return answer.startswith(b"HTTP/1.1 200")


def test_i3_all_that_may_be_asked_one_thing_and_fell_silent(target, monkeypatch):
    monkeypatch.setattr(serve, "MOST_CONNECTIONS", 100)
    with running(create_platform(target.site, {})) as address:
        idle = [connect(address) for _ in range(100)]
        try:
            assert all(healthy(one) for one in idle)
            with connect(address) as line:
                assert healthy(line)
            assert idle[0].recv(1) == b""  # the longest silent one; the others may go on
            assert healthy(idle[1])
        finally:
            for one in idle:
                one.close()


def test_i3_streams_that_are_dropped_give_their_places_back(target, address, monkeypatch):
    from luthier.server.platform import job_stream

    monkeypatch.setattr(job_stream, "MOST_OF_A_PROJECT", 3)
    job = target.site.jobs.submit(target.site.check(target.key), "scripted", {}).id
    head = f"GET /luthier/v1/jobs/{job}/events HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {target.key}\r\naccept: text/event-stream\r\n\r\n"

    def follow():
        line = connect(address)
        line.sendall(head.encode())
        return line, line.recv(4_000)[9:12]

    lines = [follow() for _ in range(3)]
    assert [status for _, status in lines] == [b"200"] * 3
    full, status = follow()
    full.close()
    assert status == b"429"
    for line, _ in lines:
        line.close()
    dropped_s = time.monotonic()
    while True:
        line, status = follow()
        line.close()
        if status == b"200":
            break
        assert time.monotonic() - dropped_s < 3
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["ended", "expired", "reduced"])
def test_a6_a_key_that_dies_in_the_middle_of_a_stream(target, address, how):
    """Over a real connection: what was let in is cut within seconds, and nothing more is told."""
    site, who = target.site, target.site.check(target.key)
    expires_s = time.time() + 1.5 if how == "expired" else None
    user = site.accounts.create_user(who, "service", f"of {how}", scope=who.project, role="viewer")
    made = site.accounts.keys.create(
        site.operator(), scope=who.project, title=how, user=user.id, expires_s=expires_s
    )
    job = site.jobs.submit(who, "scripted", {})
    head = f"GET /luthier/v1/jobs/{job.id}/events HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {made.text}\r\naccept: text/event-stream\r\n\r\n"
    with connect(address) as line:
        line.sendall(head.encode())
        assert line.recv(4_000).startswith(b"HTTP/1.1 200")
        if how == "ended":
            site.accounts.keys.end(who, made.key.id)
        elif how == "reduced":
            site.accounts.end_grant(who, who.project, user.id, "viewer")
        began_s, told = time.monotonic(), b""
        while piece := line.recv(4_000):  # until the server ends it
            told += piece
            if told.endswith(b"0\r\n\r\n"):
                break
        assert time.monotonic() - began_s < 6
        site.jobs.ask(who, job.id, "cancel")
        assert b"job.ended" not in told and b"cancelled" not in told
