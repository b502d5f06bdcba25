"""Read every hostile case in one process with little memory, and say in JSON lines what came of each: run by test_hostile.py, so
that a crash, a hang or an allocation without end is a failed test and not the end of all tests."""

from __future__ import annotations

import json
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from make import CASES

from luthier.core.errors import LuthierError
from luthier.data.connectors import apart, connect
from luthier.data.spec import SourceSpec

SECONDS = 60
MEMORY = 8_000_000_000


def outcome(folder: Path, written: dict[str, Any], on_bad_row: str) -> dict[str, Any]:
    """What a reader of the column `text` meets."""
    begun = time.monotonic()
    told: dict[str, Any] = {"texts": [], "bad": []}
    try:
        source = SourceSpec.model_validate({**written, "map": {"text": "text", "on_bad_row": on_bad_row}})
        connector = connect(source, folder, lambda text: text)
        connector.fingerprint() if written["files"] != "/dev/zero" else None
        connector.head(100)
        rows = 0
        for block in connector.blocks(["text"]):
            column = block.columns["text"]
            texts = column if isinstance(column, list) else column.to_pylist()
            origins = block.origins()
            rows += len(block)
            told["texts"] += [[o, str(t)[:80]] for o, t in zip(origins, texts, strict=True)][
                : 20 - len(told["texts"])
            ]
            told["bad"] += [
                [o, b.reason, b.preview] for o, b in zip(block.bad_origins(), block.bad, strict=True)
            ]
        told["rows"] = rows
    except LuthierError as error:
        told |= {"error": error.message, "remedy": error.remedy, "kind": type(error).__name__}
    except BaseException:  # whatever it is, the test shows it
        told |= {"crash": traceback.format_exc()}
    told["seconds"] = time.monotonic() - begun
    return told


def peak_mb() -> int:
    told = Path("/proc/self/status").read_text()
    return int(told.partition("VmHWM:")[2].split()[0]) // 1000


def main(names: list[str]) -> None:
    import duckdb  # noqa: F401  # what the process would hold anyway
    import polars  # noqa: F401

    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError(f"more than {SECONDS} s")))
    apart.PATIENCE_S = 5.0
    for name in names or CASES:
        made = CASES[name]
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            made.write(folder)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
            found: dict[str, Any] = {"name": name}
            Path("/proc/self/clear_refs").write_text("5")
            before = peak_mb()
            for on_bad_row in ("refuse", "set_aside"):
                signal.alarm(SECONDS)
                told = outcome(folder, made.source, on_bad_row)
                signal.alarm(0)
                found[on_bad_row] = json.loads(json.dumps(told).replace(place, "FOLDER"))
            found["peak_mb"] = peak_mb() - before
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
