"""Read a file in a process of its own, for formats whose libraries hold a file whole and may be made to crash, to loop or to
fill memory by a crafted one: HTML, PDF, workbooks.

    parent                          child: at most MEMORY_BYTES, no environment, nothing on its streams but the protocol
      {"reader": .., "path": ..} ─▶   imports the reader, calls rows(path, ...)
      ◀─ {"row": [..]} .. {"end": true}, or {"fault": [reason, remedy]}

A child that says nothing for PATIENCE_S, dies, or speaks out of turn is a fault of the file it was reading. One that finished
serves the next file. Run as a module, this file is the child.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from luthier.core.errors import missing_part

from .faults import LONGEST_ROW_BYTES, Fault

MEMORY_BYTES = 3_000_000_000
PATIENCE_S = 60.0
_idle: list[_Child] = []


def rows_apart(reader: str, stream: BinaryIO, extra: str, **how: Any) -> Iterator[list[Any]]:
    """What the module `reader` of this package finds in the bytes of `stream`. Raises Fault for a file that cannot be read, and
    MissingPart when the reader's library is not installed (the extra `extra` brings it)."""
    with tempfile.NamedTemporaryFile(prefix="luthier-", suffix=".part") as copy:
        while chunk := stream.read(1 << 20):
            copy.write(chunk)
        copy.flush()
        child = _idle.pop() if _idle else _Child()
        finished = False
        try:
            child.ask({"reader": reader, "path": copy.name, **how})
            while "end" not in (told := child.answer()):
                if "row" in told:
                    yield told["row"]
                elif "missing" in told:
                    finished = True
                    raise missing_part(told["missing"], extra, "reading this format")
                else:
                    finished = True
                    reason, remedy = told["fault"]
                    raise Fault(reason, "", remedy)
            finished = True
        finally:
            if finished:
                _idle.append(child)
            else:  # somebody stopped asking, or the child is no longer to be trusted
                child.stop()


class _Child:
    """The parent's side of one process."""

    def __init__(self) -> None:
        path = os.pathsep.join(place for place in sys.path if place)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "luthier.data.connectors.apart"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": path, "LUTHIER_APART": str(MEMORY_BYTES)},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._into, self._from = self._process.stdin, self._process.stdout.fileno()
        self._held = bytearray()

    def ask(self, what: dict[str, Any]) -> None:
        try:
            self._into.write(json.dumps(what).encode() + b"\n")
            self._into.flush()
        except OSError:
            raise self._died() from None

    def answer(self) -> dict[str, Any]:
        """The next line. Raises Fault when none comes."""
        end = time.monotonic() + PATIENCE_S
        searched = 0
        while (at := self._held.find(b"\n", searched)) < 0:
            searched = len(self._held)
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._from], [], [], left)[0]:
                raise _odd(f"its reader did not come further within {PATIENCE_S:g} s")
            found = os.read(self._from, 1 << 20)
            if not found:
                raise self._died()
            self._held += found
            if len(self._held) > 8 * LONGEST_ROW_BYTES:
                raise _odd("it holds a row without end")
        line = bytes(self._held[:at])
        del self._held[: at + 1]
        told: dict[str, Any] = json.loads(line)
        return told

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._into.close()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _died(self) -> Fault:
        code = self._process.wait()
        how = f"was stopped by {signal.Signals(-code).name}" if code < 0 else f"gave up (exit {code})"
        return _odd(f"its reader {how}, as happens when a file asks for more than {MEMORY_BYTES // 10**9} GB")


def _odd(reason: str) -> Fault:
    return Fault(
        f"this file cannot be read safely: {reason}",
        "",
        "Export it again, or convert it to JSON Lines, CSV or Parquet",
    )


@atexit.register
def _stop_idle() -> None:
    while _idle:
        _idle.pop().stop()


def _serve() -> None:
    """The child: one file after another until nobody asks any more."""
    import resource

    limit = int(os.environ["LUTHIER_APART"])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is none of the protocol
    for line in sys.stdin.buffer:
        what = json.loads(line)
        try:
            reader = importlib.import_module(f".{what.pop('reader')}", __package__)
            for row in reader.rows(**what):
                out.write(json.dumps({"row": row}).encode() + b"\n")
                out.flush()
            told: dict[str, Any] = {"end": True}
        except Fault as fault:
            told = {"fault": [fault.reason, fault.remedy]}
        except ImportError as error:
            told = {"missing": error.name or str(error)}
        except MemoryError:
            told = {
                "fault": [f"it needs more than {limit // 10**9} GB to read", "Divide it, or export it as CSV"]
            }
        except Exception as error:  # whatever a parser of a foreign format may raise is a fault of the file
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            told = {
                "fault": [f"it cannot be read ({reason})", "Open it in its own program and save it again"]
            }
        out.write(json.dumps(told).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    _serve()
