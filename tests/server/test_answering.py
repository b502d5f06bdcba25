"""What a request says of the model that had it, and what a client that does not read costs: its own answer, and nothing else."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from luthier.server import answering
from luthier.server.keys import KeyRing, generate
from luthier.server.openai import Limits, create_app
from luthier.server.router import Fixed
from luthier.server.serve import running
from luthier.server.served import ServedModel
from luthier.serving.engine import ContextLengthExceeded
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

MUCH = Reply(("w" * 20_000 + " ") * 600)  # 12 MB, more than the sockets' buffers take


class Noting:
    """A lease that keeps how it ended."""

    def __init__(self, model, endings):
        self.model, self.endings, self.ended = model, endings, False
        self.headers = {"x-luthier-variant": "candidate"}

    def end(self, ending):
        if not self.ended:
            self.ended = True
            self.endings.append(ending)


class Router(Fixed):
    def __init__(self, models):
        super().__init__(models)
        self.endings = []

    def take(self, name, asker):
        return Noting(self[name], self.endings)


@dataclass
class Door:
    url: str
    key: str
    model: ServedModel
    endings: list
    exchanges: list

    def post(self, text, *, timeout=20, headers=None, **more):
        headers = {"authorization": f"Bearer {self.key}", **(headers or {})}
        body = {"model": "router", "messages": [{"role": "user", "content": text}], **more}
        with httpx.Client(base_url=self.url, trust_env=False, timeout=timeout, headers=headers) as client:
            return client.post("/v1/chat/completions", json=body)

    def leave_after(self, wait_s, text):
        with pytest.raises(httpx.ReadTimeout):
            self.post(text, timeout=wait_s)
        return self.ending()

    def ending(self):
        """What the one request said."""
        until(lambda: self.endings)
        (ending,) = self.endings
        self.endings.clear()
        return ending

    def ask_and_read_nothing(self, text, buffer_bytes=4096):
        host, port = self.url.removeprefix("http://").split(":")
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        connection.connect((host, int(port)))
        body = json.dumps(
            {"model": "router", "messages": [{"role": "user", "content": text}], "stream": True}
        )
        connection.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        return connection


def until(condition, limit_s=5.0):
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < limit_s, "it did not happen in time"
        time.sleep(0.005)


@contextmanager
def door(rules=(), *, answer_s=None, **serve):
    engine = ScriptedEngine(rules, context_tokens=10**6)
    engine.load()
    model = ServedModel("router", engine, package_digest="d" * 64, release="router@2")
    router, exchanges = Router({"router": model}), []
    text, key = generate()
    app = create_app(router, KeyRing([key]), limits=Limits(answer_s=answer_s), on_exchange=exchanges.append)
    with running(app, drain_s=1, **serve) as url:
        yield Door(url, text, model, router.endings, exchanges)


@pytest.mark.parametrize("answer_s", [None, 1.0])
def test_a_client_that_does_not_read_holds_no_slot_and_is_cut(answer_s):
    with door([Rule("much", MUCH)], answer_s=answer_s, read_timeout_s=1.5) as it:
        connection = it.ask_and_read_nothing("much")
        until(lambda: it.model.engine.requests)
        until(lambda: it.model.admission.active == 0)
        assert not it.endings  # it has not read its answer, and the others do not wait for that
        assert it.post("quick").status_code == 200
        it.endings.clear()
        until(lambda: it.endings)  # cut, though it still holds its end of the connection
        (ending,) = it.endings
        assert ending is not None and not ending.failed
        assert ending.seconds < 1  # the engine's time, not the client's
        until(lambda: len(it.exchanges) == 2)
        connection.close()


def test_a_client_that_reads_slowly_gets_it_all():
    with door([Rule("much", MUCH)], read_timeout_s=5) as it:
        connection = it.ask_and_read_nothing("much", buffer_bytes=1 << 20)
        until(lambda: it.model.engine.requests)
        until(lambda: it.model.admission.active == 0)
        received = b""
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += connection.recv(1 << 20)
        assert received.count(b"w" * 20_000) == 600 and b"data: [DONE]" in received
        connection.close()


def test_a_version_that_hangs_is_counted_though_its_clients_leave(monkeypatch):
    monkeypatch.setattr(answering, "HUNG_S", 0.3)
    rules = [
        Rule("hang", Reply("x", first_delay_s=30)),
        Rule("crawl", Reply("a " * 200, token_delay_s=0.05)),
    ]
    with door(rules) as it:
        hung = it.leave_after(0.6, "hang")
        assert hung.failed and hung.seconds >= 0.3
        crawled = it.leave_after(0.8, "crawl")  # it goes on saying something: slow, and not failed
        assert not crawled.failed and crawled.seconds >= 0.5
        assert it.leave_after(0.1, "hang") is None  # a client without patience says nothing of it
        assert it.post("ok").status_code == 200 and not it.ending().failed


def test_a_deadline_is_the_engines_fault_only_where_it_had_the_time():
    rules = [Rule("hang", Reply("x", first_delay_s=30)), Rule("half", Reply("x", first_delay_s=0.8))]
    with door(rules, answer_s=1.2) as it:
        assert it.post("hang").status_code == 504
        assert it.ending().failed
        with ThreadPoolExecutor() as pool:  # the second waits for the first, and has a third of its time left
            sent = [pool.submit(it.post, "half") for _ in range(2)]
            assert sorted(one.result().status_code for one in sent) == [200, 504]
        until(lambda: len(it.endings) == 2)
        assert [one and one.failed for one in it.endings] == [False, None]
        it.endings.clear()
        late = it.post("hang", headers={"x-luthier-deadline-s": "1"})  # the client's choice
        assert late.status_code == 504 and it.ending() is None
    with door(rules) as it:
        assert it.post("hang", headers={"x-luthier-deadline-s": "1"}).status_code == 504
        assert it.ending() is None


def test_an_error_says_which_version_it_came_from():
    rules = [
        Rule("fails", Reply("x", fails=RuntimeError("secret"))),
        Rule("refused", Reply("x", fails=ContextLengthExceeded(5, 5, 5))),
        Rule("late", Reply("x", first_delay_s=30)),
    ]
    with door(rules, answer_s=0.3) as it:
        for text, more, status in (
            ("ok", {}, 200),
            ("ok", {"stream": True}, 200),
            ("fails", {}, 500),
            ("fails", {"stream": True}, 500),
            ("refused", {}, 400),
            ("late", {}, 504),
        ):
            told = it.post(text, **more)
            assert told.status_code == status, told.text
            for name, value in (("x-luthier-release", "router@2"), ("x-luthier-variant", "candidate")):
                assert told.headers.get_list(name) == [value], (text, name)
        vector = httpx.post(
            f"{it.url}/v1/embeddings", json={"model": "router", "input": "x"}, headers={"authorization": f"Bearer {it.key}"}, trust_env=False
        )  # fmt: skip
        assert vector.status_code == 200 and vector.headers.get_list("x-luthier-release") == ["router@2"]


def test_an_embedding_that_fails_is_logged_as_an_answer_is(caplog):
    with door() as it:
        it.model.engine.embed = lambda *_: 1 / 0
        told = httpx.post(
            f"{it.url}/v1/embeddings", json={"model": "router", "input": "mine"}, headers={"authorization": f"Bearer {it.key}"}, trust_env=False
        )  # fmt: skip
        assert told.status_code == 500
        (line,) = [one for one in caplog.records if "the engine of 'router' failed" in one.getMessage()]
        assert told.headers["x-request-id"] in line.getMessage() and line.exc_info[0] is ZeroDivisionError
