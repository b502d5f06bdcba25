"""Nothing is sent where it must not be: every way to write such a place, and every way to lead there."""

import http.server
import socket
import threading
import time

import pytest

from luthier.core.egress import Egress, NotReached
from luthier.core.errors import SpecError


class Listener(http.server.ThreadingHTTPServer):
    """Counts connections, before anything of them is read."""

    daemon_threads = True

    def __init__(self, answer=200, headers=(), drip_s=0.0):
        self.seen, self.bodies = 0, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                outer.bodies.append(
                    (self.path, dict(self.headers), self.rfile.read(int(self.headers["content-length"])))
                )
                if drip_s:
                    try:
                        for _ in range(100):
                            self.wfile.write(b"HTTP/1.1 200 OK\r\nx-a: "[:1])
                            self.wfile.flush()
                            time.sleep(drip_s)
                    except OSError:
                        return
                self.send_response(answer)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def verify_request(self, request, client_address):
        self.seen += 1
        return True

    @property
    def port(self):
        return self.server_address[1]


@pytest.fixture
def listener():
    with Listener() as made:
        yield made
        made.shutdown()


def test_the_listed_host_is_reached_by_http_and_sees_what_was_sent(listener):
    egress = Egress(frozenset({"localhost", "127.0.0.1"}))
    for host in ("localhost", "127.0.0.1"):
        assert egress.post(f"http://{host}:{listener.port}/a?b=c", b"{}", {"x-y": "z"}) == 200
    path, headers, body = listener.bodies[0]
    assert (path, headers["x-y"], headers["Host"], body) == (
        "/a?b=c",
        "z",
        f"localhost:{listener.port}",
        b"{}",
    )


FORMS = [
    "http://127.0.0.1:{p}/", "http://localhost:{p}/", "http://[::1]:{p}/", "http://2130706433:{p}/", "http://0x7f000001:{p}/",
    "http://0177.0.0.1:{p}/", "http://017700000001:{p}/", "http://127.1:{p}/", "http://0x7f.1:{p}/", "http://0:{p}/",
    "http://[::ffff:127.0.0.1]:{p}/", "http://[::ffff:7f00:1]:{p}/", "http://[0:0:0:0:0:0:0:1]:{p}/", "http://127.0.0.1.:{p}/",
    "http://user@127.0.0.1:{p}/", "http://good.example@127.0.0.1:{p}/", "http://127.0.0.1:{p}\\@good.example/",
    "http://127.0.0.1:1\\@127.0.0.1:{p}/", "http://good.example:80\\@127.0.0.1:{p}/", "http:\\\\127.0.0.1:{p}/", "//127.0.0.1:{p}/",
    "http://127.0.0.1:{p}#@good.example/", "http://127.0.0.1 :{p}/", "http://127.0.0.1:{p}/\r\nx: y", "http://127。0。0。1:{p}/",
    "http://①②⑦.0.0.1:{p}/", "HTTP://127.0.0.1:{p}/", "file:///etc/passwd", "gopher://127.0.0.1:{p}/", "ftp://127.0.0.1:{p}/",
    "http:/127.0.0.1:{p}/", "http://", "https://", "", "http://127.0.0.1:0{p}/", "http://127.0.0.1:/", "http://%31%32%37.0.0.1:{p}/",
    "http://[::1%25lo]:{p}/", "https://a" + "." * 3 + "b/", "https://" + "a" * 300 + ".example/", "https://x/" + "a" * 2000,
    "https://127.0.0.1:99999/", "https://example.com:0/", "javascript:alert(1)", "http://good.example/",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_are_refused_before_anything_is_looked_up(form, listener):
    looked_up = []
    egress = Egress(resolve=lambda host, port: looked_up.append(host) or [])
    with pytest.raises(SpecError):
        egress.post(form.format(p=listener.port), b"{}", {})
    assert (looked_up, listener.seen) == ([], 0)


INSIDE = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "240.0.0.1",
          "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
          "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1",
          "2001:0:4136:e378:8000:63bf:80ff:fffe"]  # fmt: skip


def leads_to(*addresses, port=1):
    return lambda host, asked: [(0, 0, 0, "", (one, asked)) for one in addresses]


@pytest.mark.parametrize("address", INSIDE)
def test_names_that_lead_inside_are_not_connected_to(address, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("connected"))
    for addresses in ((address,), ("93.184.215.14", address)):  # one good address excuses no bad one
        with pytest.raises(NotReached, match="where nothing is sent"):
            Egress(resolve=leads_to(*addresses)).post("https://hooks.example.com/", b"{}", {})


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0"]
)
def test_a_listed_name_never_leads_to_where_clouds_keep_credentials(address):
    egress = Egress(frozenset({"inside"}), resolve=leads_to(address))
    with pytest.raises(NotReached, match="where nothing is sent"):
        egress.post("https://inside/", b"{}", {})


def test_a_name_that_changes_its_address_is_asked_once(listener):
    """Rebinding: what was looked at is what is connected to, whatever the name leads to a moment later."""
    answers = [leads_to("93.184.215.14"), leads_to("127.0.0.1")]
    asked = []

    def resolve(host, port):
        asked.append(host)
        return answers[min(len(asked), 2) - 1](host, port)

    connected = []

    def refused(address, *_):
        connected.append(address)
        raise ConnectionRefusedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_connection", refused)
        with pytest.raises(NotReached, match="does not answer"):
            Egress(resolve=resolve).post(f"https://rebind.example:{listener.port}/", b"{}", {})
    assert (asked, connected) == (["rebind.example"], [("93.184.215.14", listener.port)])
    with pytest.raises(
        NotReached, match="this machine"
    ):  # the next time it leads here, and is looked at again
        Egress(resolve=resolve).post(f"https://rebind.example:{listener.port}/", b"{}", {})
    assert listener.seen == 0


def test_a_redirect_is_an_answer_and_is_not_followed(listener):
    with Listener(307, [("location", f"http://127.0.0.1:{listener.port}/")]) as away:
        assert Egress(frozenset({"localhost"})).post(f"http://localhost:{away.port}/", b"{}", {}) == 307
        away.shutdown()
    assert listener.seen == 0


def test_a_server_that_drips_is_left(listener):
    with Listener(drip_s=0.05) as slow:
        began = time.monotonic()
        with pytest.raises(NotReached, match=r"within 0\.3 s"):
            Egress(frozenset({"localhost"}), timeout_s=0.3).post(f"http://localhost:{slow.port}/", b"{}", {})
        assert time.monotonic() - began < 3
        slow.shutdown()


def test_a_look_up_that_hangs_is_left():
    with pytest.raises(NotReached, match="not found within"):
        Egress(timeout_s=0.2, resolve=lambda *_: time.sleep(1) or []).post(
            "https://hangs.example/", b"{}", {}
        )


def test_a_key_that_no_header_holds_is_told_without_the_key():
    from luthier.core.errors import DataError
    from luthier.data.egress import Door, EgressSpec

    spec = EgressSpec.model_validate({"url": "http://127.0.0.1:9/v1", "model": "m", "key": "${LLM_KEY}"})
    door = Door(spec, lambda text: text.replace("${LLM_KEY}", "sk-secret\n"))
    for ask in (lambda: door.post("chat/completions", {}), lambda: next(door.stream("x", {}, lambda: False))):
        with pytest.raises(DataError, match=r"the value of \$\{LLM_KEY\} holds a line break") as caught:
            ask()
        assert "sk-secret" not in str(caught.value)
