"""`luthier serve NAME` with a real model follows what `luthier rollout` says, from other processes, without a restart."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from luthier.app.app import App


@pytest.fixture
def door(ran):
    store = App.open({"LUTHIER_HOME": str(ran.home)}).store
    first = store.catalog.get("router@1")
    with store.working("2" * 64) as (
        out,
        _,
    ):  # the same package under another digest: a second version that answers
        (out / "release.json").write_text("{}")
        again = store.commit("release", "2" * 64, dict(first.spec), first.version, first.parents, out, {})
    assert str(store.catalog.name("router", again.digest)) == "router@2"
    ran.luthier("rollout", "start", "router@2", "--because", "so that router@1 is the stable one")
    ran.luthier("rollout", "rollback", "router")
    command = [sys.executable, "-m", "luthier", "serve", "router", "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in told, told


def test_a_served_name_follows_its_rollout(ran, door):
    from openai import OpenAI

    with OpenAI(base_url=door["base_url"], api_key=door["api_key"]) as client:

        def asked():
            got = client.chat.completions.with_raw_response.create(
                model="router", messages=[{"role": "user", "content": "my parcel is late"}]
            )
            return got.headers["x-luthier-release"], got.parse()

        def until(release):
            until_s = time.monotonic() + 60
            while (found := asked())[0] != release:
                assert time.monotonic() < until_s, f"{release} never answered"
                time.sleep(0.2)
            return found[1]

        assert asked()[0] == "router@1"  # what was taken back is not served, though it is the newest
        ran.luthier("rollout", "start", "router@2", "--because", "once more", "--set", "canary=[100%]")
        answer = until("router@2")
        traced = json.loads(ran.luthier("lineage", answer.id, "--json").stdout)
        assert traced["answer"]["release"] == "router@2"
        ran.luthier("rollout", "promote", "router", "--because", "it answers")
        time.sleep(2.5)
        assert asked()[0] == "router@2"
        ran.luthier("rollout", "rollback", "router")
        until("router@1")
