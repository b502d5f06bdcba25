"""Nothing in the tests reaches a network, reads the user's home, or depends on the order they run in."""

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models gain nothing from a second thread, and threads that wait for each other on a busy machine cost tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says something of the machine, not of the law.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    for name in ("LUTHIER_DATABASE", "LUTHIER_BLOBS"):
        monkeypatch.delenv(name, raising=False)
