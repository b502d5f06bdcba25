"""llama.cpp as a process of its own, by the wheel `xllamacpp`: started, asked over a private socket, ended. The one way in which it is
run, for whoever serves a GGUF file or compares one.

    with Process(Launch(file)) as process:
        process.post("/completion", {"prompt": [1, 2, 3], "n_predict": 1})
        for told in process.stream("/completion", {...}): ...

Native code that fails takes nothing down with it, and its memory is gone afterwards. The process (llamacpp_child.py) gets no secret:
its environment is a few harmless names, its socket lies in a folder that only this user may enter, and a key that is drawn for the
occasion reaches it over its standard input. It ends when that is closed, so never later than we do.

Not here: what is asked, and bringing it back when it was killed (serving/llamacpp_base.py).
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, missing_part

PACKAGE, EXTRA = "xllamacpp", "gguf-engine"
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
"""All of our environment that the process sees."""
START_S, ANSWER_S = 600.0, 3600.0
_POLL_S = 0.2
_CHILD = Path(__file__).with_name("llamacpp_child.py")


def version() -> str | None:
    """The installed wheel's version; None: it is not installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(PACKAGE)
    except PackageNotFoundError:
        return None


def need() -> Path:
    """The folder that the wheel lies in. Raises MissingPart."""
    from importlib.util import find_spec

    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise missing_part(PACKAGE, EXTRA, "llama.cpp")
    return Path(found.origin).parent.parent


@dataclass(frozen=True)
class Launch:
    """`tokens`: of keys and values, shared by all `streams`. `adapters`: LoRA files, all off unless a request sets their scale; their
    ids are their places here. `threads` None: one for each core that this process may use."""

    model: Path
    tokens: int
    streams: int = 1
    adapters: tuple[Path, ...] = ()
    threads: int | None = None


class Gone(Exception):
    """The process ended, or hung up, while it was asked."""


class Answered(Exception):
    """It answered with an error. `status` as in HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Process:
    """`start` waits until it answers. Every other method may be called from any thread."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self._key = secrets.token_hex(24)
        self._folder: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, unwanted: Callable[[], bool] = lambda: False) -> None:
        """Raises MissingPart, and ModelError with llama.cpp's own words where it does not load the model; Gone soon after `unwanted`
        says True."""
        wheel = need()
        self._folder = Path(tempfile.mkdtemp(prefix="luthier-"))  # mode 0700
        wish = {
            "import_from": str(wheel),
            "socket": str(self._folder / "s.sock"),
            "key": self._key,
            "model": str(self.launch.model),
            "tokens": self.launch.tokens,
            "streams": self.launch.streams,
            "adapters": [str(one) for one in self.launch.adapters],
            "threads": self.launch.threads or cores(),
        }
        with (self._folder / "log").open("wb") as log:
            self._child = subprocess.Popen(  # noqa: S603 (our own file; what it reads are our own files)
                [sys.executable, "-P", "-E", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C is ours to handle: answers under way are finished first
            )
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(wish).encode() + b"\n")
            self._child.stdin.flush()
            deadline = time.monotonic() + START_S
            while not (ready := readable(self._child.stdout, _POLL_S)) and time.monotonic() < deadline:
                if unwanted():
                    self.stop()
                    raise Gone("it was not wanted any more")
            told = self._child.stdout.readline() if ready else b""
        except OSError:
            told = b""
        if told.strip() != b"ready":
            why = self._last_words() if told or ready else f"it was not ready within {START_S:.0f} s"
            self.stop()
            raise ModelError(
                f"llama.cpp does not load {self.launch.model.name}: {why}.",
                remedy="Serve it with --engine transformers, and report this.",
            )

    def stop(self) -> None:
        """What is under way is lost. Does nothing the second time."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def wait(self) -> int:
        """Until it ends: its exit status, negative for a signal."""
        child = self._child
        return 0 if child is None else child.wait()

    def get(self, path: str) -> Any:
        return self._whole("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that it answers with. Raises Answered, Gone."""
        return self._whole("POST", path, body)

    def stream(
        self, path: str, body: Mapping[str, Any], unwanted: Callable[[], bool] = lambda: False
    ) -> Generator[Any, None, None]:
        """What it sends, value by value; ends early once `unwanted` says True. Closing hangs up, which frees its slot. Raises
        Answered, Gone."""
        connection = self._asked("POST", path, body)
        try:
            assert connection.sock is not None
            while not readable(connection.sock, _POLL_S):
                if unwanted():
                    return
            answer = _need_sound(connection.getresponse())
            for line in answer:
                if unwanted():
                    return
                if line.startswith(b"data: {"):
                    told = json.loads(line[6:])
                    if "error" in told:
                        raise _error(500, told)
                    yield told
                elif line.startswith(b"error: "):
                    raise _error(500, {"error": json.loads(line[7:])})
        except (OSError, http.client.HTTPException) as error:
            raise Gone(str(error)) from None
        finally:
            connection.close()

    def _whole(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        connection = self._asked(method, path, body)
        try:
            return json.loads(_need_sound(connection.getresponse()).read())
        except (OSError, http.client.HTTPException) as error:
            raise Gone(str(error)) from None
        finally:
            connection.close()

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None) -> http.client.HTTPConnection:
        connection = _Connection(str((self._folder or Path()) / "s.sock"))
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Gone(str(error)) from None
        return connection

    def _last_words(self) -> str:
        assert self._folder is not None
        time.sleep(0.05)  # the log's last line may still be on its way
        lines = (self._folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        wrong = [one for one in lines if "error" in one.lower()] or lines[-1:] or ["it ended without a word"]
        return wrong[-1].strip()[:300].rstrip(".")


def readable(what: Any, seconds: float) -> bool:
    """Whether there is something to read, or nothing will come any more. By poll: `select` knows the first 1,024 files only."""
    waiting = select.poll()
    waiting.register(what, select.POLLIN)
    return bool(waiting.poll(1000 * seconds))


class _Connection(http.client.HTTPConnection):
    def __init__(self, place: str) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._place = place

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._place)


def _need_sound(answer: http.client.HTTPResponse) -> http.client.HTTPResponse:
    if answer.status != 200:
        try:
            told = json.loads(answer.read())
        except ValueError:
            told = {}
        raise _error(answer.status, told)
    return answer


def _error(status: int, told: Any) -> Answered:
    error = told.get("error") if isinstance(told, dict) else None
    error = error if isinstance(error, dict) else {}
    return Answered(int(error.get("code") or status), str(error.get("message") or "no message"))


def cores() -> int:
    """Never more threads than there are cores: they wait for each other by spinning."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def watch(process: Process, ended: Callable[[int], object]) -> None:
    """Call `ended` with the exit status, from a thread of its own, once the process is gone."""
    threading.Thread(target=lambda: ended(process.wait()), daemon=True, name="llamacpp-watch").start()
