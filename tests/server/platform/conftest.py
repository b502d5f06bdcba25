import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
import uvicorn
from fastapi.testclient import TestClient

from luthier.app import verbs
from luthier.app.context import Silent
from luthier.app.site import Site, new_id
from luthier.core import keys
from luthier.core.errors import LuthierError
from luthier.server.platform.make import create_platform
from luthier.store.accounts import Grant, KeyRow, User
from luthier.store.jobs import told
from luthier.store.ledger import row_of
from luthier.store.tables import events, jobs


@pytest.fixture
def site(tmp_path):
    return Site.open({"LUTHIER_HOME": str(tmp_path / "site")})


def allowing(site, **rules):
    """A site whose owner lets recipes of others use more than the default does."""
    import json

    site.policies.lay(site.operator(), "site", json.dumps(rules), "for these tests")


@pytest.fixture(scope="session")
def allow():
    return allowing


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


class Runner(threading.Thread):
    """Does the jobs of kind `verb` in this process, one after the other."""

    def __init__(self, site):
        super().__init__(daemon=True)
        self.site, self.over = site, threading.Event()
        self.held = threading.Event()

    def run(self):
        database = self.site.store.database
        while not self.over.wait(0.02):
            with database.reading() as connection:
                query = sa.select(jobs.c.id, jobs.c.project).where(jobs.c.state == "queued")
                found = [] if self.held.is_set() else connection.execute(query).all()
            for one in found:
                self.one(database, self.site.store.jobs.get(one.project, one.id))

    def one(self, database, job):
        app = self.site.app_of(job.project, self.site.top.actor)
        with database.transaction() as connection:
            connection.execute(
                events.insert().values(
                    row_of(told(job.id, "Began", data={"kind": "stage.started", "step": "x"}))
                )
            )
        folder = app.home / "jobs" / job.id
        folder.mkdir(parents=True)
        at = SimpleNamespace(
            job=job, site=self.site, app=app, folder=folder, watch=Silent(), stop=threading.Event()
        )
        try:
            end = {"state": "succeeded", "result": verbs.run(at)}
        except LuthierError as error:
            codes = {
                "SpecError": "invalid_value",
                "NotFound": "not_found",
                "DataError": "invalid_data",
                "ModelError": "invalid_model",
            }
            message = f"{error.message}\n{error.remedy}" if error.remedy else error.message
            end = {
                "state": "failed",
                "error": {
                    "code": codes.get(type(error).__name__, "failed"),
                    "message": message,
                    "param": None,
                },
            }
        with database.transaction() as connection:
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(**end, finished_s=time.time()))


@contextmanager
def _at_a_port(site):
    """A platform over a real port, and jobs of verbs done beside it: (address, runner)."""
    server = uvicorn.Server(
        uvicorn.Config(create_platform(site, {}), port=0, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    runner = Runner(site)
    runner.start()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", runner
    finally:
        runner.over.set()
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def at_a_port():
    return _at_a_port
