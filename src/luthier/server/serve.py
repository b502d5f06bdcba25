"""From an app to an open port and back: binding, deadlines, draining. Knows nothing of what the app answers."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from luthier.core.errors import LuthierError, missing_part
from luthier.server.keys import KeyRing, check_bind

if TYPE_CHECKING:
    import uvicorn

KEEP_ALIVE_S = 30
HEAD_TIMEOUT_S = 30.0
READ_TIMEOUT_S = 60.0
LARGEST_HEAD_BYTES = 32 * 1024
MOST_CONNECTIONS = 1000


def serve(
    app: Any,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    chosen_keys: KeyRing | bool | None = None,
    on_ready: Callable[[str], None] | None = None,
    drain_s: int = 20,
    head_timeout_s: float = HEAD_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> None:
    """Answer until SIGTERM or SIGINT, then finish what is under way (at most `drain_s` seconds) and return.

    `port` 0 takes a free one. `on_ready` is called with the address, like http://127.0.0.1:8000, once requests are
    answered. A second SIGINT does not wait. Beyond this machine it needs `chosen_keys`, the keys that somebody chose
    rather than had generated; True where they are in a site's records. Raises SpecError without them, LuthierError if the port cannot be had.
    """
    check_bind(host, chosen_keys)
    listener = bind(host, port)
    with listener:
        server = _server(
            app, on_ready and (lambda: on_ready(url_of(listener))), drain_s, head_timeout_s, read_timeout_s
        )
        with _signals(server):
            _run(server, listener)


@contextmanager
def running(
    app: Any,
    port: int = 0,
    *,
    drain_s: int = 20,
    head_timeout_s: float = HEAD_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> Iterator[str]:
    """The same on loopback in a thread of this process: yields the address; drains and stops when the block ends."""
    ready = threading.Event()
    with bind("127.0.0.1", port) as listener:
        server = _server(app, ready.set, drain_s, head_timeout_s, read_timeout_s)
        with ThreadPoolExecutor(1, thread_name_prefix="http") as threads:
            served = threads.submit(_run, server, listener)
            served.add_done_callback(lambda _: ready.set())
            ready.wait()
            try:
                if served.done():
                    served.result()
                yield url_of(listener)
            finally:
                server.should_exit = True


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    try:
        server.run(sockets=[listener])
    except SystemExit as error:  # how uvicorn says that the app's start failed
        raise LuthierError("The HTTP server did not start; its log says why.") from error


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises LuthierError that says what stands in the way."""
    try:
        if not 0 <= port < 2**16:  # getaddrinfo would take it modulo 65536
            raise OverflowError("there is no such port")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise _cannot_listen(host, port, error) from error
    try:
        # a port that a stopped server left in TIME_WAIT may be taken again
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _cannot_listen(host: str, port: int, error: Exception) -> LuthierError:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return LuthierError(
            f"Port {port} on {host} is in use by another program.",
            remedy=f"Stop it, or choose another port; port 0 takes a free one (`ss -ltnp 'sport = :{port}'` shows who).",
        )
    if code in (errno.EACCES, errno.EPERM):
        return LuthierError(
            f"Port {port} may not be opened by this user.", remedy="Choose a port above 1023."
        )
    return LuthierError(
        f"Cannot listen on {host!r} port {port}: {error}.",
        remedy="Give an address of this machine, such as 127.0.0.1, and a port between 0 and 65535.",
    )


def _server(
    app: Any,
    on_started: Callable[[], object] | None,
    drain_s: int,
    head_timeout_s: float,
    read_timeout_s: float,
) -> uvicorn.Server:
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise missing_part("uvicorn", "serve", "The HTTP server") from error
    from luthier.server.protocol import protocol

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if on_started is not None and self.started:
                on_started()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # `serve` owns the signals: uvicorn would raise them again after a clean stop

    return Server(
        uvicorn.Config(
            app,
            http=protocol(head_timeout_s, read_timeout_s, MOST_CONNECTIONS),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=drain_s,
            h11_max_incomplete_event_size=LARGEST_HEAD_BYTES,
        )
    )


@contextmanager
def _signals(server: uvicorn.Server) -> Iterator[None]:
    """SIGINT and SIGTERM ask the server to stop, for as long as it runs; main thread only, as Python demands."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {which: signal.signal(which, server.handle_exit) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
