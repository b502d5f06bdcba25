"""Who waits for whom: for a stream, and for a process that is being started. With a process that is played."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from luthier.core.errors import ModelError
from luthier.models.llamacpp import Gone, Launch, Process
from luthier.serving import llamacpp_base
from luthier.serving.engine import Cancelled
from luthier.serving.llamacpp_base import Base


class Played:
    """`slow`: it loads until nobody wants it any more. `fails`: it does not load."""

    slow = fails = False
    pid, alive = 1, True

    def __init__(self, launch):
        self.launch, self.ended = launch, threading.Event()

    def start(self, unwanted=lambda: False):
        if Played.fails:
            raise ModelError("no such layer")
        while Played.slow:
            if unwanted():
                raise Gone
            time.sleep(0.01)

    def stop(self):
        self.ended.set()

    def wait(self):
        self.ended.wait()
        return -9

    def post(self, path, body):
        return {"tokens": [1]}


@pytest.fixture
def base(monkeypatch):
    monkeypatch.setattr(llamacpp_base, "Process", Played)
    made = Base(Path("model"), context=100, streams=4, tokens=100)
    yield made
    Played.slow = Played.fails = False


def test_a_stream_does_not_go_on_from_what_another_tenant_asked(base):
    base.join(None)

    def begins(salt, streams, asks=True):
        with base.seat(None, [1, 2, 3], 10, lambda: False, salt) as seat:
            streams.add(seat.stream)
            first = seat._mine({})["cache_prompt"]
            if asks:
                assert seat.ask({}) and seat._mine({})["cache_prompt"]  # of its own answer
            return first

    try:
        mine, theirs = set(), set()
        assert not begins("a", mine) and begins("a", mine) and len(mine) == 1
        assert not begins("b", theirs) and not mine & theirs
        for n in range(6):  # more tenants than streams: each has one that another had
            assert not begins(f"c{n}", set())
        assert not begins("a", set())
        for _ in range(4):  # who sat down and asked nothing has read nothing
            assert not begins("thief", set(), asks=False)
        assert not begins("thief", set())
    finally:
        base.leave(None)


def asked(base, tokens, done, unwanted=lambda: False):
    def wait():
        with base.seat(None, [1], tokens, unwanted):
            done.append(tokens)

    thread = threading.Thread(target=wait, daemon=True)
    before = len(base._line)
    thread.start()
    until = time.monotonic() + 5
    while len(base._line) == before and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.005)
    return thread


def test_a_long_answer_waits_for_those_before_it_and_none_after(base):
    base.join(None)
    done = []
    with base.seat(None, [1], 30, lambda: False):
        long = asked(base, 90, done)  # 70 are left
        short = asked(base, 10, done)  # would fit, and has come later
        time.sleep(0.3)
        assert done == []
    long.join(5)
    short.join(5)
    assert done == [90, 10] and not base._line
    base.leave(None)


def test_whoever_hangs_up_in_line_keeps_nobody_waiting(base):
    base.join(None)
    done, hung_up = [], threading.Event()
    with base.seat(None, [1], 30, lambda: False):

        def wait():
            with pytest.raises(Cancelled), base.seat(None, [1], 90, hung_up.is_set):
                pass

        long = threading.Thread(target=wait)
        long.start()
        short = asked(base, 10, done)
        hung_up.set()
        long.join(5)
        short.join(5)
        assert done == [10]
    base.leave(None)


def test_whoever_leaves_waits_for_no_start(base):
    adapter = Path("adapter")
    base.join(None)
    base.join(adapter)
    Played.slow = True
    base._running.process.ended.set()
    until = time.monotonic() + 5
    while not base._starting.locked() and time.monotonic() < until:
        time.sleep(0.01)
    assert not base.health().ready
    began = time.monotonic()
    base.leave(adapter)
    base.leave(None)
    assert time.monotonic() - began < 2 and base.health().detail == "not loaded"
    Played.slow = False
    base.join(None)
    assert base.health().ready
    base.leave(None)


def test_whoever_does_not_join_is_not_counted(base):
    Played.fails = True
    with pytest.raises(ModelError, match="no such layer"):
        base.join(None)
    assert not base._users and base.health().detail == "not loaded"


def test_a_process_that_nobody_waits_for_ends_before_it_has_loaded(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text("import time; time.sleep(60)")
    monkeypatch.setattr("luthier.models.llamacpp._CHILD", child)
    monkeypatch.setattr("luthier.models.llamacpp.PACKAGE", "json")
    process, began = Process(Launch(tmp_path / "model", 10)), time.monotonic()
    with pytest.raises(Gone):
        process.start(unwanted=lambda: time.monotonic() > began + 0.5)
    assert time.monotonic() - began < 10 and process.pid is None
