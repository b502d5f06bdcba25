"""Canaries: secrets of every kind are put through the platform, used rightly and wrongly, and then searched for in all that it keeps, logs and
answers: every file below its home, every column of every table, every line of the log, every body, event and error. Each is searched for as it
is, in base64 and quoted for a URL.

What is kept on purpose is named in `KEPT`, and nothing else is excused.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from luthier.app.delivering import Deliverer
from luthier.app.jobs.launchers import processes
from luthier.app.jobs.reconciler import Reconciler
from luthier.app.site import Site
from luthier.core.egress import Egress, NotReached
from luthier.models.testing import tiny_model
from luthier.server.platform.make import create_platform

from .attempting import run_job

V = "/luthier/v1"
ENVIRON = {
    "CANARY_DATABASE": "postgresql://luthier:canary-of-a-database-5ee1@127.0.0.1:1/tickets",
    "CANARY_KEY": "canary-of-an-embedder-77a2",
    "JUDGE_KEY": "canary-of-a-judge-c04d",
    "CANARY_WORD": "canary-of-an-instruction-b6f3",
    "UNASKED_PASSWORD": "canary-that-nobody-refers-to-19d8",
}
KEPT = ("server.key",)
"""Files from which secrets follow, for the server's user alone."""
RECIPE = """\
name: canary
base: {base}
task: {{kind: chat, instruction: "Route it. ${{CANARY_WORD}}"}}
data:
  sources: [{source}]
  rules: {{relevance: [{{rank: {{goal: x, n: 5, method: embedding, embedder: {{endpoint: {{url: "{url}", model: m, key: "${{CANARY_KEY}}"}}}}}}}}]}}
evaluate: {{judge: {{model: {{endpoint: "{url}", model: j, key: "${{JUDGE_KEY}}"}}}}}}
"""

JUDGED = """\
name: canary
base: {base}
task: {{kind: chat, instruction: "Say it. ${{CANARY_WORD}}"}}
data: {{sources: [{{files: {file}, map: {{user: text, assistant: queue}}}}], split: {{validation: 0.2, test: 0.3}}}}
train: {{epochs: 1, batch: {{rows: 8}}, dtype: fp32, adapter: {{kind: lora, rank: 2}}}}
evaluate: {{max_tokens: 4, judge: {{model: {{endpoint: "{url}", model: j, key: "${{JUDGE_KEY}}", tries: 1}}}}}}
"""


class Silent(Egress):
    """Sends nothing, and remembers what would have been sent."""

    def __init__(self):
        super().__init__()
        self.__dict__["sent"] = []

    def post(self, url, body, headers):
        self.target(url)
        self.sent.append((body, dict(headers)))
        raise NotReached("nobody answers there.")


@contextmanager
def repeating():
    """A server that answers nothing but what it was sent as a key: (its address, what came)."""
    came = []

    class Repeats(BaseHTTPRequestHandler):
        def do_POST(self):
            key = self.headers.get("authorization", "")
            came.append(key)
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.dumps({"error": {"message": f"{key} may not do this", "code": key}}).encode()
            self.send_response(401, "No")
            self.send_header("content-length", str(len(body)))
            self.send_header("x-key", key)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Repeats) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", came
        server.shutdown()


def forms(secret):
    """How a secret may stand somewhere: as it is, in base64 (wherever it begins), and quoted."""
    raw = secret.encode()
    found = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}
    for before in range(3):  # base64 of what stands behind 0, 1 or 2 bytes, without what those bytes change
        text = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        found.add(text[[0, 2, 3][before] : -2])
    return {one for one in found if len(one) >= 12}


def kept_in(home):
    return {
        path.relative_to(home).as_posix(): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and path.name not in KEPT
    }


def columns_of(database):
    """Every value of every column, with where it stands; on PostgreSQL of every schema."""
    with database.reading() as connection:
        looked = sa.inspect(connection)
        for schema in looked.get_schema_names() if not database.is_sqlite else [None]:
            if schema in ("information_schema", "pg_catalog"):
                continue
            for name in looked.get_table_names(schema=schema):
                table = sa.Table(name, sa.MetaData(), schema=schema, autoload_with=connection)
                for row in connection.execute(sa.select(table)):
                    for column, value in zip(table.columns, row, strict=True):
                        yield f"{schema}.{name}.{column.name}", str(value)


@pytest.fixture
def canaries(tmp_path, monkeypatch, caplog):
    """(a site, its client, what its operator told it, every answer that it gave)"""
    caplog.set_level(logging.DEBUG)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    environ = {"LUTHIER_HOME": str(tmp_path / "site"), "LUTHIER_JOB_ENVIRON": "CANARY_*,JUDGE_KEY", **ENVIRON}
    yield Canaries(Site.open(environ))


class Canaries:
    def __init__(self, site):
        self.site, self.key = site, site.found()
        self.answers = []
        self.client = TestClient(
            create_platform(site, {}),
            base_url="http://127.0.0.1:1",
            headers={"authorization": f"Bearer {self.key}"},
            raise_server_exceptions=False,
        )
        self.secrets = {
            "the first key": self.key.split("_")[2],
            **{name: v for name, v in ENVIRON.items() if "://" not in v},
        }
        self.secrets["a password of a database"] = "canary-of-a-database-5ee1"

    def ask(self, method, path, *, once=(), **more):
        """`once`: fields of the answer that tell a secret, this once."""
        answer = self.client.request(method, f"{V}{path}" if not path.startswith("/v1") else path, **more)
        told = answer.json() if answer.content and "json" in answer.headers["content-type"] else {}
        text = answer.text
        for name in once:
            secret = told[name]
            self.secrets[f"{name} of {method} {path}"] = (
                secret.split("_")[2] if secret.startswith("luthier_") else secret.removeprefix("whsec_")
            )
            text = text.replace(secret, "")
        self.answers.append((f"{method} {path}", f"{answer.headers}{text}"))
        return told

    def job(self, recipe, *, prepares=False):
        """Submitted, run to its end in this process, and asked for in every way. `prepares`: the dataset alone."""
        path, body = ("/do/data.prepare", {"text": recipe}) if prepares else ("/jobs", recipe)
        job = self.ask("POST", path, json={"recipe": body})
        assert "id" in job, job
        run_job(self.site, job["project"], job["id"])
        shown = self.ask("GET", f"/jobs/{job['id']}")
        assert shown["state"] == "failed", shown
        for path in ("events", "logs"):
            self.ask("GET", f"/jobs/{job['id']}/{path}")
        self.ask("GET", f"/jobs/{job['id']}/events", headers={"accept": "text/event-stream"})
        return shown["error"]["message"]

    def search(self, log):
        """Where any secret stands that should stand nowhere."""
        places = {f"file {name}": data for name, data in kept_in(self.site.top.home).items()}
        for project in self.site.store.accounts.projects():
            store = self.site.app_of(project.id, self.site.top.actor).store
            places |= {f"{project.id} {where}": value.encode() for where, value in columns_of(store.database)}
        columns = list(columns_of(self.site.store.database))
        for n, (where, value) in enumerate(columns):
            places[f"{where} {n}"] = value.encode()
        places |= {f"answer {n} {where}": text.encode() for n, (where, text) in enumerate(self.answers)}
        places |= {f"log {n}": line.encode() for n, line in enumerate(log)}
        assert len(columns) > 40 and len(self.answers) > 20
        return [
            (name, where)
            for name, secret in self.secrets.items()
            for form in forms(secret)
            for where, data in places.items()
            if form.encode() in data
        ]


def lines(caplog):
    """Everything that was logged, tracebacks too; what the test's own client says of its requests is not the server's."""
    shown = logging.Formatter()
    return [shown.format(one) for one in caplog.records if not one.name.startswith(("httpx", "httpcore"))]


def with_keys(at):
    """Made, rotated, ended; sent wrongly, in wrong places, and as values of fields."""
    made = at.ask("POST", "/keys", json={"title": "a"}, once=["key"])
    rotated = at.ask("POST", f"/keys/{made['id']}/rotate", json={}, once=["key"])
    at.ask("GET", "/keys")
    wrong = rotated["key"][:-1] + ("0" if rotated["key"][-1] != "0" else "1")
    for head in ({"authorization": f"Bearer {wrong}"}, {"authorization": f"Basic {rotated['key']}"}, {"openai-project": rotated["key"]},
                 {"cookie": f"luthier-session={rotated['key']}"}, {"x-request-id": rotated["key"]}, {"origin": f"http://{rotated['key']}"},
                 {"idempotency-key": rotated["key"]}):  # fmt: skip
        at.ask("GET", "/me", headers=head)
    at.ask("DELETE", f"/keys/{rotated['id']}")
    at.ask("GET", "/me", headers={"authorization": f"Bearer {rotated['key']}"})


def with_webhooks(at):
    told = {
        "name": "a",
        "url": "https://hooks.example.com/t0ken-in-a-path",
        "event_types": ["fine_tuning.job.succeeded"],
    }
    hook = at.ask("POST", "/v1/webhook_endpoints", json=told, once=["signing_secret"])
    at.ask("POST", f"/v1/webhook_endpoints/{hook['id']}/rotate_secret", json={"keep_old_secret_active_for_24_hours": True}, once=["signing_secret"])  # fmt: skip
    job = at.site.jobs.submit(at.site.check(at.key), "fine_tune", {})
    at.site.jobs.ask(at.site.check(at.key), job.id, "cancel")
    silent = Silent()
    from luthier.store.webhooks import entered

    with at.site.store.database.transaction() as connection:
        entered(connection, type(job)(**{**vars(job), "state": "succeeded"}))
    Deliverer(at.site, silent).step()
    assert len(silent.sent) == 1
    for path in ("", f"/{hook['id']}", f"/{hook['id']}/deliveries"):
        at.ask("GET", f"/webhooks{path}")
    at.ask("GET", "/audit?trail=site")


def with_recipes(at, allow, url, came):
    allow(
        at.site, sources=["${CANARY_DATABASE}"], environment=[*ENVIRON][:4], bases=["smollm2-135m-instruct"],
        endpoints=[{"url": url, "keys": ["CANARY_KEY", "JUDGE_KEY"]}],
    )  # fmt: skip
    query = '{sql: {url: "${CANARY_DATABASE}", query: "select 1 as id", key: id}, map: {user: text, assistant: queue}}'
    assert "127.0.0.1" in at.job(RECIPE.format(base="smollm2-135m-instruct", source=query, url=url))
    rows = "".join(json.dumps({"text": f"row {n}", "queue": "a"}) + "\n" for n in range(40)).encode()
    file = at.ask("POST", "/v1/files", files={"file": ("rows.jsonl", rows)}, data={"purpose": "user_data"})
    told = at.job(
        RECIPE.format(
            base="smollm2-135m-instruct",
            source=f"{{files: {file['id']}, map: {{user: text, assistant: queue}}}}",
            url=url,
            prepares=True,
        )
    )
    assert "may not do this" in told and "CANARY_KEY" in told, told
    for text in (
        "name: ${UNASKED_PASSWORD}\n",
        RECIPE.format(base="smollm2-135m-instruct", source=query, url="http://127.0.0.1:9/v1"),
    ):
        answer = at.ask("POST", "/jobs", json={"recipe": text})
        assert "error" in answer
    at.ask("POST", "/do/recipes.plan", json={"recipe": {"text": "a: ${UNASKED_PASSWORD}"}})


def test_no_secret_is_found_anywhere(canaries, allow, caplog):
    with repeating() as (url, came):
        with_keys(canaries)
        with_webhooks(canaries)
        with_recipes(canaries, allow, url, came)
    found = canaries.search(lines(caplog))
    assert not found, "\n".join(map(str, found))
    assert set(came) == {f"Bearer {ENVIRON['CANARY_KEY']}"}  # each key went where it belongs
    paths = [where for where, value in columns_of(canaries.site.store.database) if "t0ken-in-a-path" in value]
    assert {one.rpartition(".")[2] for one in paths} == {
        "url"
    }  # what a receiver's path holds is in its row alone
    assert not [one for one in lines(caplog) if "t0ken" in one]


def test_the_search_finds_what_is_there(canaries, caplog):
    """The test of the test: a secret in a file, in a column, in the log and in an answer, plain and in base64."""
    for _ in range(21):
        canaries.ask("GET", "/me")
    assert not canaries.search(lines(caplog))
    secret = ENVIRON["UNASKED_PASSWORD"]
    (canaries.site.top.home / "note").write_text(f"x{secret}x")
    logging.getLogger("luthier.server").warning("oh: %s", base64.b64encode(f"u:{secret}".encode()).decode())
    canaries.ask("POST", "/keys", json={"title": secret}, once=["key"])
    found = {where.split()[0] for _, where in canaries.search(lines(caplog))}
    assert {"file", "log", "answer", "None.api_keys.title"} <= found


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def company(request, tmp_path, monkeypatch, caplog):
    """The same with a model to tune, and jobs as processes of their own; on PostgreSQL the server's own password is a secret too."""
    caplog.set_level(logging.DEBUG)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    tiny_model(tmp_path / "tiny")
    environ = {"LUTHIER_HOME": str(tmp_path / "site"), "LUTHIER_JOB_ENVIRON": "CANARY_*,JUDGE_KEY", **ENVIRON}
    environ |= {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
        environ["LUTHIER_DATABASE"] = url.replace("luthier@", "luthier:canary-of-the-server-e21b@")
    made = Canaries(Site.open(environ))
    made.secrets["the server's own database"] = "canary-of-the-server-e21b"
    yield made
    for job, attempt in made.site.store.attempts.running():
        processes.kill(processes.marked(f"{job.id}/{attempt.number}"))


@pytest.mark.slow
def test_no_secret_is_found_where_jobs_are_processes(company, allow, caplog, tmp_path):
    """A model is tuned, and its judge repeats the key that it was sent: in the job's log too, which its own process writes."""
    with repeating() as (url, came):
        allow(
            company.site, environment=["CANARY_WORD", "JUDGE_KEY"], bases=[str(tmp_path / "tiny")],
            endpoints=[{"url": url, "keys": ["JUDGE_KEY"]}],
        )  # fmt: skip
        rows = "".join(
            json.dumps({"text": f"{n} {word}?", "queue": word}) + "\n"
            for n in range(20)
            for word in ("one", "two")
        )
        sent = {"files": {"file": ("rows.jsonl", rows.encode())}, "data": {"purpose": "user_data"}}
        file = company.ask("POST", "/v1/files", **sent)["id"]
        recipe = JUDGED.format(base=tmp_path / "tiny", file=file, url=url)
        job = company.ask("POST", "/jobs", json={"recipe": recipe})["id"]
        reconciler = Reconciler(company.site, owner="one")
        for_s = time.monotonic() + 300
        while (shown := company.ask("GET", f"/jobs/{job}"))["state"] not in ("failed", "succeeded"):
            assert time.monotonic() < for_s
            reconciler.step()
            time.sleep(0.3)
        with_keys(company)
        with_webhooks(company)
    assert shown["state"] == "failed" and "JUDGE_KEY" in shown["error"]["message"], shown["error"]
    assert set(came) == {f"Bearer {ENVIRON['JUDGE_KEY']}"}
    told = company.ask("GET", f"/jobs/{job}/logs")
    company.ask("GET", f"/jobs/{job}/events")
    assert told["data"] is not None
    found = company.search(lines(caplog))
    assert not found, "\n".join(map(str, found))
