"""A small WebHDFS for tests: a name node that redirects, and a data node that holds the bytes, as the REST API describes them
(hadoop.apache.org, WebHDFS REST API). It proves our client side; it is not HDFS."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

PREFIX = "/webhdfs/v1"


class Cluster:
    """`files` by path; `asked` every operation with its range; `trouble` what the data node answers instead, once set."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.folders: set[str] = {"/"}
        self.asked: list[tuple[str, str, int, int]] = []
        self.trouble: tuple[int, bytes] | None = None
        self.reads = 0
        self.name_node = self.data_node = ""

    def put(self, path: str, data: bytes) -> None:
        self.files[path] = data
        while path := path.rpartition("/")[0]:
            self.folders.add(path)

    def status(self, path: str, suffix: str) -> dict[str, Any]:
        size = len(self.files.get(path, b""))
        return {
            "accessTime": 1_700_000_000_000 + self.reads, "blockSize": 1 << 27, "group": "g", "length": size, "owner": "o",
            "modificationTime": 1_700_000_000_000, "pathSuffix": suffix, "permission": "644", "replication": 3,
            "type": "FILE" if path in self.files else "DIRECTORY",
        }  # fmt: skip


@contextmanager
def cluster() -> Iterator[Cluster]:
    hdfs = Cluster()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hdfs, role)) for role in ("name", "data")]
    hdfs.name_node, hdfs.data_node = (f"127.0.0.1:{server.server_port}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hdfs
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _handler(hdfs: Cluster, role: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            path, asked = unquote(parts.path).removeprefix(PREFIX) or "/", parse_qs(parts.query)
            path = path.rstrip("/") or "/"
            op = asked["op"][0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                (self.name if role == "name" else self.data)(op, path, asked, body)
            except FileNotFoundError:
                self.error(404, "FileNotFoundException", f"File does not exist: {path}")

        do_GET = do_PUT = do_POST = do_DELETE = handle_any

        def name(self, op: str, path: str, asked: dict[str, list[str]], body: bytes) -> None:
            there = path in hdfs.files or path in hdfs.folders
            if op in ("GETFILESTATUS", "LISTSTATUS", "OPEN", "GETFILECHECKSUM", "APPEND") and not there:
                raise FileNotFoundError
            if "/secret" in path:
                self.error(403, "AccessControlException", "Permission denied: user=luthier")
            elif op == "GETFILESTATUS":
                self.give({"FileStatus": hdfs.status(path, "")})
            elif op == "LISTSTATUS":
                inside = path.rstrip("/") + "/"
                names = {
                    p[len(inside) :].partition("/")[0]
                    for p in [*hdfs.files, *hdfs.folders]
                    if p.startswith(inside)
                }
                found = [hdfs.status(inside + name, name) for name in sorted(names - {""})]
                self.give(
                    {
                        "FileStatuses": {
                            "FileStatus": found if path in hdfs.folders else [hdfs.status(path, "")]
                        }
                    }
                )
            elif op in ("OPEN", "CREATE", "APPEND", "GETFILECHECKSUM"):
                self.send_response(307)
                self.send_header(
                    "Location", f"http://{hdfs.data_node}{PREFIX}{quote(path)}?{urlsplit(self.path).query}"
                )
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif op == "MKDIRS":
                hdfs.put(f"{path}/x", b"")
                del hdfs.files[f"{path}/x"]
                self.give({"boolean": True})
            elif op == "DELETE":
                self.give({"boolean": hdfs.files.pop(path, None) is not None})
            else:
                self.error(400, "UnsupportedOperationException", f"{op} is not supported")

        def data(self, op: str, path: str, asked: dict[str, list[str]], body: bytes) -> None:
            if hdfs.trouble is not None:
                status, told = hdfs.trouble
                self.answer(status, told)
            elif op == "OPEN":
                start = int(asked.get("offset", ["0"])[0])
                length = int(asked.get("length", [str(1 << 40)])[0])
                hdfs.asked.append((op, path, start, length))
                hdfs.reads += 1
                self.answer(200, hdfs.files[path][start : start + length])
            elif op == "GETFILECHECKSUM":
                told = hashlib.md5(hdfs.files[path]).hexdigest()
                self.give(
                    {"FileChecksum": {"algorithm": "MD5-of-1MD5-of-512CRC32C", "bytes": told, "length": 28}}
                )
            elif op == "CREATE":
                hdfs.put(path, body)
                self.answer(201, b"")
            else:
                hdfs.files[path] += body
                self.answer(200, b"")

        def give(self, what: Any) -> None:
            self.answer(200, json.dumps(what).encode())

        def error(self, status: int, kind: str, message: str) -> None:
            told = {"RemoteException": {"exception": kind, "javaClassName": kind, "message": message}}
            self.answer(status, json.dumps(told).encode())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
