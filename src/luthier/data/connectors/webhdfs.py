"""What fsspec's WebHDFS client leaves open, closed: it takes an error page of a data node for the file's bytes, waits for ever for a
server that is silent, and tells a checksum that changes whenever somebody reads the file.

Not here: HDFS itself. `hdfs://` needs Hadoop's own libraries; `webhdfs://host:port/path` needs none.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SILENT_S = 120.0


def is_webhdfs(system: AbstractFileSystem) -> bool:
    return type(system).__name__ == "WebHDFS"


def guarded(system: AbstractFileSystem) -> AbstractFileSystem:
    """The same file system; one that is not WebHDFS as it is."""
    if is_webhdfs(system):
        session: Any = system.session
        if _refuse not in session.hooks["response"]:  # fsspec gives the same object for the same address
            session.hooks["response"].append(_refuse)
            session.request = partial(session.request, timeout=SILENT_S)
    return system


def _refuse(response: Any, *_: Any, **__: Any) -> None:
    """Raise what an answer that is an error means, from whichever node it came."""
    if response.status_code < 400:
        return
    try:
        told = json.loads(response.content[:100_000])["RemoteException"]
        kind, why = str(told["exception"]), str(told["message"])
    except (ValueError, KeyError, TypeError):
        kind, why = "", f"status {response.status_code}"
    why = " ".join(why.split())[:300]
    if kind == "FileNotFoundException":
        raise FileNotFoundError(why)
    if kind in ("AccessControlException", "SecurityException"):
        raise PermissionError(why)
    raise OSError(f"{kind}: {why}" if kind else why)


def mark_of(system: AbstractFileSystem, path: str) -> str:
    """What HDFS says of the bytes (MD5 of its blocks' checksums): times of access are no part of it."""
    told: Any = system.ukey(path)
    return f"{told['algorithm']}:{told['bytes']}"
