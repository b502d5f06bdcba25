"""What a client does when a server asks it to wait, sends it elsewhere, or lies: against a server that says what the test wrote."""

import asyncio
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import luthier
from luthier.core.errors import Busy, DataError, GateFailed, Interrupted, NotFound, SpecError, StoreError
from luthier.core.verbs import VERBS
from luthier.sdk import flows
from luthier.sdk.drive import AsyncDriver, Driver

KEY = "luthier_abcdefgh_secret"


class Scripted(ThreadingHTTPServer):
    """`says`: for (method, path) a list of (status, headers, body), each said once and the last for ever. `heard`: what was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.says, self.heard = {}, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self):
        length = int(self.headers.get("content-length") or 0)
        self.server.heard.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
        said = self.server.says.get(
            (self.command, self.path.partition("?")[0]), [(404, {}, {"error": {"message": "no"}})]
        )
        status, headers, body = said.pop(0) if len(said) > 1 else said[0]
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_HEAD = _answer


@pytest.fixture
def server():
    made = Scripted()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def waits(monkeypatch):
    """Every pause that a client makes, none of which takes time."""
    made = []
    monkeypatch.setattr("luthier.sdk.drive.time.sleep", made.append)

    async def later(seconds):
        made.append(seconds)

    monkeypatch.setattr("luthier.sdk.drive.asyncio.sleep", later)
    return made


class Both:
    """The same call of the client with and without await."""

    def __init__(self, url, kind):
        self.url, self.kind = url, kind

    def __call__(self, name, *given, **named):
        if self.kind == "sync":
            with luthier.Client(self.url, KEY) as client:
                return getattr(client, name)(*given, **named)

        async def asked():
            async with luthier.AsyncClient(self.url, KEY) as client:
                return await getattr(client, name)(*given, **named)

        return asyncio.run(asked())


@pytest.fixture(params=["sync", "async"])
def ask(request, server):
    return Both(server.url, request.param)


SHOW = "/luthier/v1/do/records.show"
RESULT = {"object": "luthier.result", "verb": "records.show", "result": {"digest": "d"}, "files": []}


def job(state, **more):
    return {
        "id": "job-1",
        "state": state,
        "shown": {"verb": "data.prepare"},
        "result": None,
        "error": None,
        **more,
    }


def stream(*events):
    return b"".join(
        (f"id: {n}\n" if kind == "job.told" else "").encode()
        + f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()
        for n, kind, data in events
    )


def test_it_waits_as_long_as_the_server_asks_and_then_sends_again(server, ask, waits):
    busy = {"error": {"message": "too often", "code": "rate_limit_exceeded"}}
    server.says["POST", SHOW] = [(429, {"retry-after": "7"}, busy), (503, {}, busy), (200, {}, RESULT)]
    assert ask("call", "records.show", "router") == {"digest": "d"}
    assert 7 <= waits[0] <= 7 * 1.25 and 1 <= waits[1] <= 1.25
    assert len({body for *_, body in server.heard}) == 1 and len(server.heard) == 3
    assert server.heard[0][2]["authorization"] == f"Bearer {KEY}"


def test_it_gives_up_in_words(server, ask, waits):
    server.says["POST", SHOW] = [
        (503, {"x-should-retry": "false"}, {"error": {"message": "not now", "code": "busy"}})
    ]
    with pytest.raises(Busy, match="not now"):
        ask("call", "records.show", "router")
    assert waits == []
    server.says["POST", SHOW] = [(503, {}, {"error": {"message": "not now", "code": "busy"}})]
    with pytest.raises(Busy):
        ask("call", "records.show", "router")
    assert len(waits) == flows.MOST_TRIES - 1


def test_a_job_is_entered_once_however_often_it_is_sent(server, ask, waits):
    server.says["POST", "/luthier/v1/do/models.harness"] = [
        (503, {}, {"error": {"message": "x"}}),
        (202, {}, job("queued")),
    ]
    assert ask("submit", "models.harness", "router", ["arc_easy"])["id"] == "job-1"
    keys = [headers["idempotency-key"] for _, _, headers, _ in server.heard]
    assert len(keys) == 2 and len(set(keys)) == 1 and len(keys[0]) == 32


def test_the_key_goes_to_no_other_server(server, ask):
    elsewhere = Scripted()
    try:
        server.says["POST", SHOW] = [(307, {"location": f"{elsewhere.url}/x"}, b"")]
        with pytest.raises(StoreError, match="307"):
            ask("call", "records.show", "router")
        assert elsewhere.heard == []
    finally:
        elsewhere.server_close()


def test_errors_are_of_the_classes_that_app_raises(server, ask):
    for kind, status in ((NotFound, 404), (GateFailed, 409), (DataError, 400)):
        told = {"kind": kind.__name__, "message": "it is so.", "remedy": "do this."}
        server.says["POST", SHOW] = [
            (status, {}, {"error": {"message": "it is so. do this.", "luthier": told}})
        ]
        with pytest.raises(kind) as raised:
            ask("call", "records.show", "router")
        assert (raised.value.message, raised.value.remedy) == ("it is so.", "do this.")
    server.says["POST", SHOW] = [(401, {}, {"error": {"message": "Send a valid key."}})]
    with pytest.raises(SpecError, match="remote login"):
        ask("call", "records.show", "router")
    server.says["POST", SHOW] = [(502, {"content-type": "text/html"}, b"<h1>proxy</h1>")]
    with pytest.raises(StoreError, match="not as a server of Luthier does"):
        ask("call", "records.show", "router")


def test_a_download_with_other_bytes_is_not_kept(server, ask, tmp_path):
    body = b"a page"
    file = {"name": "page.html", "sha256": hashlib.sha256(body).hexdigest(), "size_bytes": 6}
    path = f"/luthier/v1/passing/{file['sha256']}"
    server.says["GET", path] = [(200, {}, b"another")]
    with pytest.raises(DataError, match="other bytes"):
        ask("download", file, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
    server.says["GET", path] = [(200, {}, body)]
    assert ask("download", file, tmp_path / "page.html").read_bytes() == body
    with pytest.raises(SpecError, match="already there"):
        ask("download", file, tmp_path / "page.html")


def test_a_server_cannot_write_beside_the_folder(server, ask, tmp_path):
    body = b"x"
    for name in ("../x", "/tmp/x", "a/../../x"):
        one = {"name": name, "sha256": hashlib.sha256(body).hexdigest(), "size_bytes": 1}
        path = "/luthier/v1/do/models.render"
        server.says["POST", path] = [(200, {}, {**RESULT, "result": {}, "files": [one]})]
        server.says["GET", f"/luthier/v1/passing/{one['sha256']}"] = [(200, {}, body)]
        with pytest.raises(DataError, match="leads out"):
            ask("call", "models.render", "router", "container", tmp_path / "out", image="x")
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_breaks_goes_on_behind_its_last_event(server, ask, waits):
    class Eyes:
        def __init__(self):
            self.seen = []

        def event(self, event):
            self.seen.append((event.kind, event.data.get("message"), event.data.get("step")))

        def progress(self, *_):
            pass

    events = "/luthier/v1/jobs/job-1/events"
    first = stream(
        (
            5,
            "job.told",
            {"message": "Began", "data": {"kind": "stage.started", "step": "dataset"}, "type": "message"},
        )
    )
    second = stream((6, "job.told", {"message": "Half", "type": "message", "data": {}}), (0, "job.ended", {}))
    server.says["GET", events] = [
        (200, {}, b": beat\n\n" + first),
        (503, {}, {"error": {"message": "x"}}),
        (200, {}, second),
    ]
    server.says["GET", "/luthier/v1/jobs/job-1"] = [
        (200, {}, job("succeeded", result={"result": {"rows": 3}, "files": []}))
    ]
    eyes = Eyes()
    assert ask("wait", "job-1", watch=eyes) == {"rows": 3}
    assert eyes.seen == [("stage.started", None, "dataset"), ("job.told", "Half", None)]
    asked = [path.partition("after=")[2] for _, path, _, _ in server.heard if "events" in path]
    assert asked == ["0", "5", "5"]


def test_a_stream_that_is_cut_before_it_says_anything_is_not_asked_for_again_at_once(server, ask, waits):
    events = "/luthier/v1/jobs/job-1/events"
    ended = (200, {}, stream((0, "job.ended", {})))
    server.says["GET", events] = [(200, {}, b""), (200, {}, b""), (200, {}, b""), ended]
    server.says["GET", "/luthier/v1/jobs/job-1"] = [
        (200, {}, job("succeeded", result={"result": {}, "files": []}))
    ]
    assert ask("wait", "job-1") == {}
    assert len(waits) == 3 and waits == sorted(waits) and waits[0] >= 0.5


def test_a_job_that_failed_raises_what_it_failed_with_and_a_wish_to_stop_ends_the_looking(server, ask):
    server.says["GET", "/luthier/v1/jobs/job-1/events"] = [(200, {}, stream((0, "job.ended", {})))]
    error = {"code": "gate_failed", "message": "macro_f1 0.5 is below 0.8.\nTrain longer."}
    server.says["GET", "/luthier/v1/jobs/job-1"] = [(200, {}, job("failed", error=error))]
    with pytest.raises(GateFailed) as raised:
        ask("wait", "job-1")
    assert (raised.value.message, raised.value.remedy) == ("macro_f1 0.5 is below 0.8.", "Train longer.")
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted, match="goes on at the server"):
        ask("wait", "job-1", stop=stop)


def test_no_secret_in_what_is_shown_and_no_key_through_an_open_network():
    client = luthier.Client("http://127.0.0.1:1/", KEY)
    assert repr(client) == "Client('http://127.0.0.1:1')"
    client.close()
    for address in ("http://luthier.example", "ftp://x", "https://ann:pw@x", "nothing", "https://x?y"):
        with pytest.raises(SpecError) as raised:
            luthier.Client(address, KEY)
        assert KEY not in str(raised.value) and "pw" not in str(raised.value)
    luthier.Client("http://luthier.example", KEY, insecure=True).close()


def test_words_that_a_verb_does_not_take_are_refused_before_anything_is_sent(server, ask, tmp_path):
    for call, said in (
        (("records.show", "a", True, 3), "takes reference, verify"),
        (("records.shwo", "a"), "did you mean 'records.show'"),
        (("records.show", 3), "reference"),
        (("recipes.run", tmp_path / "none.yaml"), "there is no recipe"),
        (("models.export", "router"), "needs target"),
    ):
        with pytest.raises(SpecError, match=said):
            ask("call", *call)
    assert server.heard == []


def test_nouns_and_verbs_are_those_of_the_table():
    client = luthier.Client("http://127.0.0.1:1", KEY)
    assert {
        f"{noun}.{verb}" for noun in {v.noun for v in VERBS.values()} for verb in dir(getattr(client, noun))
    } == set(VERBS)
    with pytest.raises(AttributeError, match="did you mean"):
        client.record  # noqa: B018
    with pytest.raises(AttributeError, match="did you mean"):
        client.records.shows  # noqa: B018
    client.close()


def test_both_drivers_do_what_a_flow_asks():
    assert {name for name in vars(Driver) if not name.startswith("__")} == {
        n for n in vars(AsyncDriver) if not n.startswith("__")
    }
