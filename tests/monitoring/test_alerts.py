"""What an alert says, and by which way it leaves."""

from __future__ import annotations

import hashlib
import hmac
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pydantic import ValidationError

from luthier.monitoring import mail, webhook
from luthier.monitoring.alerts import NotSent, alert
from luthier.monitoring.look import Episode
from luthier.monitoring.spec import EmailSpec, WebhookSpec

KEY = "k" * 32


@pytest.fixture
def told():
    episode = Episode("content-86400", "content", ("unlike", "topic"), 86_400.0, 240.0, 7, 1007, ("a",))
    table = {"unlike": ("0.310", "0.620"), "topic": ("parcel 40%", "router 70%")}
    return alert(
        "desk", "desk@1", episode, 0.01, table, [("a", "I am jo@firm.com \x1b[2J and my router is dead")]
    )


class Listener(BaseHTTPRequestHandler):
    status = 200

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).heard.append((dict(self.headers), body))
        self.send_response(type(self).status)
        if self.status == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def listener():
    class Mine(Listener):
        pass

    Mine.heard = []
    server = HTTPServer(("127.0.0.1", 0), Mine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Mine, f"http://127.0.0.1:{server.server_address[1]}/hook"
    server.shutdown()
    server.server_close()


def test_a_person_reads_what_and_how_sure_and_no_private_value(told):
    text = "\n".join(told.lines())
    assert "desk is asked other things" in text and "once in 240 quiet days" in text and "at 100" in text
    assert "[EMAIL_1]" in text and "jo@firm.com" not in text and "\x1b" not in text
    assert "router 70%" in text and "request 1,007" in text


def test_a_webhook_is_signed_and_says_which_alert_it_is(told, listener):
    server, url = listener
    webhook.send(told, WebhookSpec(url=url, secret="${HOOK}"), lambda _: KEY, 1_700_000_000.0)
    [(headers, body)] = server.heard
    wanted = hmac.new(KEY.encode(), b"1700000000." + body, hashlib.sha256).hexdigest()
    assert headers["Luthier-Signature"] == f"v1={wanted}" and headers["Luthier-Timestamp"] == "1700000000"
    assert headers["Luthier-Alert"] == told.id == "desk:content-86400"
    assert KEY not in str(headers) + body.decode() and "jo@firm.com" not in body.decode()
    assert json.loads(body)["views"][1] == {"view": "topic", "usual": "parcel 40%", "now": "router 70%"}


@pytest.mark.parametrize(
    ("status", "words"), [(302, "another place"), (500, "answers 500"), (404, "answers 404")]
)
def test_what_a_server_does_with_it_is_told(told, listener, status, words):
    server, url = listener
    server.status = status
    with pytest.raises(NotSent, match=words):
        webhook.send(told, WebhookSpec(url=url, secret="${HOOK}"), lambda _: KEY)
    assert len(server.heard) == 1, "a redirect is not followed"


def test_a_short_secret_is_refused(told, listener):
    server, url = listener
    with pytest.raises(NotSent, match="shorter than 16"):
        webhook.send(told, WebhookSpec(url=url, secret="${HOOK}"), lambda _: "short")
    assert not server.heard


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "::ffff:169.254.169.254",
        "::ffff:127.0.0.1",
    ],
)
def test_an_allowed_name_that_leads_where_nothing_is_sent(told, monkeypatch, address):
    monkeypatch.setattr(webhook.socket, "getaddrinfo", lambda *a, **k: [(2, 1, 6, "", (address, 80))])
    monkeypatch.setattr(webhook.socket, "create_connection", lambda *a: pytest.fail("connected"))
    spec = WebhookSpec(url="http://hooks.firm.com/x", allow_host="hooks.firm.com", secret="${HOOK}")
    with pytest.raises(NotSent, match="where nothing is sent"):
        webhook.send(told, spec, lambda _: KEY)


def test_the_address_is_looked_up_once_and_held_to(told, monkeypatch):
    asked, connected = [], []

    def look_up(*words, **more):
        asked.append(words)
        return [(2, 1, 6, "", ("10.1.2.3" if len(asked) == 1 else "169.254.169.254", 80))]

    def connect(address, timeout):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(webhook.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(webhook.socket, "create_connection", connect)
    spec = WebhookSpec(url="http://hooks.firm.com/x", allow_host="hooks.firm.com", secret="${HOOK}")
    with pytest.raises(NotSent, match="does not answer"):
        webhook.send(told, spec, lambda _: KEY)
    assert len(asked) == 1 and connected == [("10.1.2.3", 80)]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"url": "http://hooks.firm.com/x", "secret": "${HOOK}"}, "write allow_host: hooks.firm.com"),
        (
            {"url": "http://hooks.firm.com/x", "allow_host": "other.com", "secret": "${HOOK}"},
            "write one of them anew",
        ),
        ({"url": "http://127.0.0.1/x", "secret": "plainly written"}, "refer to an environment variable"),
        ({"url": "http://u:p@127.0.0.1/x", "secret": "${HOOK}"}, "holds no password"),
        ({"url": "file:///etc/passwd", "secret": "${HOOK}"}, "no URL of a server"),
        ({"url": "https://hooks..firm.com/x", "secret": "${HOOK}"}, "no name of a host"),
        ({"url": "http://127.0.0.1/hook/ü", "secret": "${HOOK}"}, "as in /hook/%C3%BC"),
        ({"url": "http://127.0.0.1/a b", "secret": "${HOOK}"}, "as in /a%20b"),
    ],
)
def test_webhooks_that_cannot_be_wished_for(wish, words):
    with pytest.raises(ValidationError, match=words):
        WebhookSpec.model_validate(wish)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"host": "smtp.firm.com"}, "write allow_host: smtp.firm.com"),
        ({"host": "smtp.firm.com", "allow_host": "smtp.firm.com", "tls": "none"}, "in the clear"),
        ({"host": "smtp..firm.com", "allow_host": "smtp..firm.com"}, "no name of a host"),
        ({"host": "localhost", "user": "me"}, "belong together"),
        ({"host": "localhost", "user": "me", "password": "hunter2"}, "refer to an environment variable"),
        ({"host": "localhost", "to": ["a@b.com\nBcc: x@y.com"]}, "no address"),
    ],
)
def test_mails_that_cannot_be_wished_for(wish, words):
    with pytest.raises(ValidationError, match=words):
        EmailSpec.model_validate({"sender": "luthier@firm.com", "to": ["ops@firm.com"], **wish})


class MailServer(socketserver.StreamRequestHandler):
    """As much of SMTP as takes one mail."""

    def handle(self):
        self.wfile.write(b"220 here\r\n")
        inside = False
        for line in self.rfile:
            self.server.heard.append(line)
            if inside:
                inside = line != b".\r\n"
                answer = b"" if inside else b"250 taken\r\n"
            else:
                inside = line.upper().startswith(b"DATA")
                answer = (
                    b"354 go on\r\n"
                    if inside
                    else b"221 bye\r\n"
                    if line.upper().startswith(b"QUIT")
                    else b"250 ok\r\n"
                )
            self.wfile.write(answer)


def test_a_mail_is_sent(told):
    with socketserver.TCPServer(("127.0.0.1", 0), MailServer) as server:
        server.heard = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        spec = EmailSpec(
            host="127.0.0.1",
            port=server.server_address[1],
            tls="none",
            sender="luthier@firm.com",
            to=["ops@firm.com"],
        )
        mail.send(told, spec, lambda text: text)
        server.shutdown()
    said = b"".join(server.heard).decode()
    assert (
        "Subject: [luthier] desk is asked other things" in said
        and "[EMAIL_1]" in said
        and "jo@firm.com" not in said
    )


def test_a_mail_server_that_is_not_there(told):
    spec = EmailSpec(host="127.0.0.1", port=9, tls="none", sender="luthier@firm.com", to=["ops@firm.com"])
    with pytest.raises(NotSent, match="does not answer"):
        mail.send(told, spec, lambda text: text)


def test_a_secret_that_cannot_be_written_is_no_traceback_and_is_not_told(told, listener):
    with pytest.raises(NotSent, match="cannot be written") as caught:
        webhook.send(told, WebhookSpec(url=listener[1], secret="${HOOK}"), lambda _: "k" * 20 + "\udcff")
    assert "kkk" not in str(caught.value)


def test_a_name_that_cannot_be_looked_up_is_not_sent_to(told, monkeypatch):
    def look_up(*words, **more):
        raise UnicodeError("label empty or too long")

    monkeypatch.setattr(webhook.socket, "getaddrinfo", look_up)
    spec = WebhookSpec(url="http://hooks.firm.com/x", allow_host="hooks.firm.com", secret="${HOOK}")
    with pytest.raises(NotSent, match="UnicodeError"):
        webhook.send(told, spec, lambda _: KEY)
    post = EmailSpec(host="smtp.firm.com", allow_host="smtp.firm.com", sender="a@firm.com", to=["b@firm.com"])
    with pytest.raises(NotSent, match="UnicodeError"):
        mail.send(told, post, lambda text: text)


def test_a_password_with_an_umlaut_is_not_sent_and_not_told(told):
    class Asks(MailServer):
        def handle(self):
            self.wfile.write(b"220 here\r\n")
            for line in self.rfile:
                said = {b"EHLO": b"250-here\r\n250 AUTH PLAIN\r\n", b"QUIT": b"221 bye\r\n"}
                self.wfile.write(said.get(line[:4].upper(), b"250 ok\r\n"))

    with socketserver.TCPServer(("127.0.0.1", 0), Asks) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        spec = EmailSpec(host="127.0.0.1", port=server.server_address[1], tls="none", sender="a@firm.com",
                         to=["b@firm.com"], user="me", password="${WORD}")  # fmt: skip
        with pytest.raises(NotSent, match="ASCII") as caught:
            mail.send(told, spec, lambda text: "pässwört" if text.startswith("$") else text)
        server.shutdown()
    assert "ssw" not in str(caught.value).replace("password", "")
