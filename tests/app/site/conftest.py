"""A site with an admin, two trainers, a deployer and a service, each with a key of the first project."""

import time

import pytest

from luthier.app.site import Site, new_id
from luthier.core import keys
from luthier.store.accounts import Grant, KeyRow, User
from luthier.store.tables import uploaded_files

HOUR_EUR = """prices:
- {machine: local-cpu, value: 2.0, currency: EUR, source: a test, retrieved: 2026-11-01}
"""


@pytest.fixture(params=["sqlite"])
def site(request, tmp_path):
    environ = {"LUTHIER_HOME": str(tmp_path / "site")}
    if request.param == "postgres":
        environ["LUTHIER_DATABASE"] = request.getfixturevalue("postgres_url")
    site = Site.open(environ)
    site.top.home.mkdir(parents=True, exist_ok=True)
    (site.top.home / "prices.yaml").write_text(HOUR_EUR)
    return site


@pytest.fixture
def admin(site):
    return site.check(site.found())


@pytest.fixture
def join(site, admin):
    """Somebody new in the project: who that is to the site."""

    def join(name, *roles, kind="person", scope=None):
        user, now = User(new_id("user"), kind, name, time.time()), time.time()
        text, key_id, sha256 = keys.generate()
        site.store.accounts.add(
            user, *(Grant(scope or admin.project, user.id, role, now) for role in roles),
            KeyRow(key_id, sha256, user.id, scope or admin.project, name, now), act=site.top.actor.act("joined", user.id),
        )  # fmt: skip
        caller = site.check(text)
        assert caller is not None
        return caller

    return join


@pytest.fixture
def trainer(join):
    return join("ann", "trainer")


@pytest.fixture
def deployer(join):
    return join("ben", "deployer")


@pytest.fixture
def upload(site, admin):
    """An uploaded file's row in the project."""

    def upload(file_id, size_bytes):
        store = site.app_of(admin.project, site.top.actor).store
        with store.database.transaction() as connection:
            connection.execute(uploaded_files.insert().values(
                id=file_id, filename="rows.jsonl", purpose="fine-tune", size_bytes=size_bytes, sha256="0" * 64, status="processed",
                by=admin.user, created_s=time.time(),
            ))  # fmt: skip

    return upload
