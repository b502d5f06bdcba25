"""A stand-in for a model behind an endpoint: a small server on this machine that speaks OpenAI's protocol and misbehaves on
demand. Its script says what to do with the n-th request.

    with serving(lambda n, body: "billing") as server:
        ...  # server.url, server.bodies, server.headers
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[[int, dict[str, Any]], Any]
"""(number of the request, its body) -> a text to answer, (status, headers, body), or a name of a fault."""


@dataclass
class Server:
    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0

    @property
    def requests(self) -> int:
        return len(self.bodies)


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    lock, open_ = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                open_[0] += 1
                server.most_at_once = max(server.most_at_once, open_[0])
                number = len(server.bodies)
                server.bodies.append(body)
                server.headers.append(dict(self.headers))
            try:
                self._answer(script(number, body))
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with lock:
                    open_[0] -= 1

        def _answer(self, said: Any) -> None:
            if said == "silence":
                time.sleep(1.0)
                return
            if said == "drip":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                for _ in range(100):
                    self.wfile.write(b"a")
                    time.sleep(0.1)
                return
            status, headers, told = said if isinstance(said, tuple) else (200, {}, answer(said))
            data = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_address[1]}/v1")
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def answer(text: str, finish: str = "stop", read: int = 10, written: int = 5) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": read, "completion_tokens": written},
    }


def said_by_user(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])
