"""Binding and stopping, in a process of its own where signals are concerned."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import httpx
import pytest

from luthier.core.errors import LuthierError, SpecError
from luthier.server.keys import KeyRing, check_bind, generate
from luthier.server.serve import bind, running, serve, url_of

PROGRAM = textwrap.dedent(
    """
    import sys
    from luthier.server.keys import KeyRing, key_from
    from luthier.server.openai import create_app
    from luthier.server.serve import serve
    from luthier.server.served import ServedModel
    from luthier.serving.scripted_engine import Reply, ScriptedEngine

    engine = ScriptedEngine(default=Reply("a b c d e", token_delay_s=float(sys.argv[2])))
    engine.load()
    app = create_app({"m": ServedModel("m", engine, package_digest="0" * 64)}, KeyRing([key_from(sys.argv[1])]))
    serve(app, "127.0.0.1", 0, on_ready=lambda url: print(url, flush=True), drain_s=int(sys.argv[3]))
    print("drained", flush=True)
    """
)


def start(key, token_delay_s=0.2, drain_s=20):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, key, str(token_delay_s), str(drain_s)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process, process.stdout.readline().strip()


def stream(url, key):
    request = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=request, headers=headers, timeout=20, trust_env=False
    )


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_answer_under_way_finish(which):
    key, _ = generate()
    process, url = start(key)
    with stream(url, key) as response:
        lines = response.iter_lines()
        next(lines)
        process.send_signal(which)
        time.sleep(0.3)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz", trust_env=False)
        rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""]
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "drained\n", "")


def test_a_drain_ends_after_its_time_without_a_traceback():
    key, _ = generate()
    process, url = start(key, token_delay_s=2.0, drain_s=1)
    with stream(url, key) as response:
        lines = response.iter_lines()
        next(lines)
        started_s = time.monotonic()
        process.terminate()
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
        assert time.monotonic() - started_s < 4
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (0, "drained\n")
    assert "Traceback" not in err


def test_the_app_stops_with_its_block_and_frees_the_port():
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    with running(app) as url:
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(LuthierError, match=f"Port {port} on 127.0.0.1 is in use") as caught:
            bind("127.0.0.1", port)
        assert "choose another port" in caught.value.remedy
    bind("127.0.0.1", port).close()


def test_an_app_that_does_not_start():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(LuthierError, match="did not start"), running(app):
        pass


@pytest.mark.parametrize(("host", "port", "match"), [("192.0.2.1", 0, "Cannot listen"), ("no such host", 0, "Cannot listen"),
                                                      ("127.0.0.1", 70_000, "Cannot listen"), ("127.0.0.1", -1, "Cannot listen")])  # fmt: skip
def test_addresses_that_cannot_be(host, port, match):
    with pytest.raises(LuthierError, match=match):
        bind(host, port)


def test_addresses_are_shown_as_they_are_typed():
    with bind("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    if socket.has_ipv6:
        try:
            listener = bind("::1", 0)
        except LuthierError:
            pytest.skip("no IPv6 here")
        with listener:
            assert url_of(listener).startswith("http://[::1]:")


def test_beyond_this_machine_only_with_a_chosen_key():
    _, key = generate()
    with pytest.raises(SpecError, match="opens this model to other machines"):
        serve(None, "0.0.0.0", 0)
    for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        check_bind(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.5", "", "example.com", "127.0.0.1.example.com"):
        check_bind(host, KeyRing([key]))
        for none in (None, KeyRing([])):
            with pytest.raises(SpecError, match="no key was chosen"):
                check_bind(host, none)


def test_a_drain_under_load_answers_who_is_in_and_loses_nobody():
    key, _ = generate()
    process, url = start(key, token_delay_s=0.05)

    def ask(_):
        try:
            with httpx.Client(
                trust_env=False, timeout=20, headers={"authorization": f"Bearer {key}"}
            ) as client:
                response = client.post(
                    f"{url}/v1/chat/completions",
                    json={"model": "m", "messages": [{"role": "user", "content": "hi"}]},
                )
        except httpx.TransportError as error:
            return type(error).__name__
        return response.status_code

    with ThreadPoolExecutor(10) as pool:
        sent = [pool.submit(ask, n) for n in range(10)]
        wait(sent, return_when=FIRST_COMPLETED)  # one is answered, one is being answered, the others wait
        process.send_signal(signal.SIGTERM)
        codes = Counter(one.result() for one in sent)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "drained\n"), err
    assert codes[200] >= 3  # whoever had been let in; a connection that had not may be closed
    assert not set(codes) - {200, "ConnectError", "RemoteProtocolError", "ReadError"}
