import pytest
from fastapi.testclient import TestClient

from luthier.app.site import Site
from luthier.server.platform.make import create_platform


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
