"""The process that plays vLLM, and who may be taken for it: its socket, its users, its restart, its end, its log."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from luthier.core.errors import ModelError
from luthier.serving import vllm_engine
from luthier.serving.vllm_engine import VllmServer


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_engine, "PAUSE_S", 0.05)
    python, fake = tmp_path / "python", Path(__file__).with_name("fake_vllm.py")
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {fake} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "model").mkdir()
    made = VllmServer(str(python), tmp_path / "model", dtype="fp32", streams=2, max_rank=8)
    yield made
    for name, users in list(made._users.items()):
        for _ in range(users):
            made.leave(name)
    assert made.pid is None


def adapter(tmp_path, name):
    place = tmp_path / name
    place.mkdir()
    (place / "adapter_model.safetensors").touch()
    return place


def knows(server, name):
    asked = {"model": name, "prompt": [1]}
    return server._post("/v1/completions", asked)[0] == 200


def within(seconds, holds):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_only_this_user_reaches_it_and_its_key_goes_to_nobody_else(server):
    server.join("base", None)
    assert server.socket.is_socket() and server.socket.parent.stat().st_mode & 0o777 == 0o700
    words = Path(f"/proc/{server.pid}/cmdline").read_text()
    assert server.key not in words and "--port" not in words
    assert server.version == "0.99"  # told, as /health is, without the key: the fake refuses to see it


def test_a_process_that_ended_is_not_ready_whoever_answers(server, monkeypatch):
    (server._base / "fails").mkdir()
    server._base = server._base / "fails"
    monkeypatch.setattr(server, "_get", lambda path: (200, '{"version": "1"}'))
    started = vllm_engine.subprocess.Popen

    def ended(*words, **more):
        child = started(*words, **more)
        child.wait()
        return child

    monkeypatch.setattr(vllm_engine.subprocess, "Popen", ended)
    with pytest.raises(ModelError, match="this model has no such layer"):
        server.join("base", None)


def test_two_engines_of_one_release_share_its_adapter_until_both_are_closed(server, tmp_path):
    one = adapter(tmp_path, "one")
    server.join("base", None)
    server.join("adapter-1", one)
    server.join("adapter-1", one)
    server.leave("adapter-1")
    assert knows(server, "adapter-1") and server.health("adapter-1").ready
    server.leave("adapter-1")
    assert not knows(server, "adapter-1") and knows(server, "base")


def test_an_adapter_that_does_not_come_back_is_told_and_tried_again(server, tmp_path):
    gone, there = adapter(tmp_path, "gone"), adapter(tmp_path, "there")
    server.join("adapter-gone", gone)
    server.join("adapter-there", there)
    (gone / "adapter_model.safetensors").unlink()
    os.killpg(server.pid, signal.SIGKILL)
    within(20, lambda: "does not load the adapter" in server.health("adapter-gone").detail)
    assert not server.health("adapter-gone").ready
    server.leave("adapter-there")  # who is well may go meanwhile
    server.join("adapter-there", there)
    assert server.health("adapter-there").ready and knows(server, "adapter-there")
    (gone / "adapter_model.safetensors").touch()
    within(20, lambda: server.health("adapter-gone").ready)
    assert knows(server, "adapter-gone") and not server._mending


def test_a_first_engine_that_does_not_load_leaves_no_process(server, tmp_path):
    with pytest.raises(ModelError, match="No adapter found"):
        server.join("adapter-none", tmp_path)
    assert server.pid is None and not server.socket.exists()


def test_whoever_leaves_waits_for_no_start(server):
    server.join("base", None)
    server.join("adapter-1", adapter(server._base.parent, "one"))
    (server._base / "slow").touch()
    folder = server.socket.parent
    os.killpg(server.pid, signal.SIGKILL)
    within(20, lambda: server.pid is None and server.socket.parent != folder)
    began = time.monotonic()
    server.leave("adapter-1")
    server.leave("base")
    assert time.monotonic() - began < 5 and server.pid is None
    within(5, lambda: not server._mending)


def test_of_its_log_the_last_lines_are_kept_and_none_on_disk(server):
    server.join("base", None)
    within(5, lambda: b"499" in server._said[-1])
    assert len(server._said) == vllm_engine.LAST_LINES
    assert [path.name for path in server.socket.parent.iterdir()] == ["s.sock"]
    assert "--disable-uvicorn-access-log" in server.command()
    assert "vllm-says" in [one.name for one in threading.enumerate()]
