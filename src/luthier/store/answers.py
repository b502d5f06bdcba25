"""Answers that cost something, kept by what was asked: a run that is repeated, or goes on after a kill, pays for none twice.

    key     a hash of everything that the answer follows from: the rule and its version, the model, the settings, the question
    about   the record that was asked about (its id without a number), so that what is forgotten is forgotten here too

One SQLite file beside the store's folders, readable by its owner alone, shared by any number of processes. It is a cache: no
part of any identity, and losing it costs money but no result. Not here: what an answer means.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core.artifact import digest_of
from luthier.core.errors import StoreError

ANSWERS = "answers.db"
AT_ONCE = 500
PATIENCE_S = 60.0


class Answers:
    """Open for as long as one rule asks. May be used by several threads. Raises StoreError where the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._one_at_a_time = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = sqlite3.connect(path, timeout=PATIENCE_S, check_same_thread=False)
            with self._database:
                self._database.execute("PRAGMA journal_mode=WAL")
                # a kill of the process loses nothing; a power cut may lose the last answers, which are then asked again
                self._database.execute("PRAGMA synchronous=NORMAL")
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, about TEXT NOT NULL, answer TEXT NOT NULL)"
                )
                self._database.execute("CREATE INDEX IF NOT EXISTS answers_about ON answers (about)")
        except (OSError, sqlite3.Error) as error:
            raise self._told(error) from None

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def find(self, keys: Sequence[str]) -> dict[str, Any]:
        """Those that are there."""
        found: dict[str, Any] = {}
        for start in range(0, len(keys), AT_ONCE):
            some = list(keys[start : start + AT_ONCE])
            marks = ",".join("?" * len(some))
            rows = self._run(f"SELECT key, answer FROM answers WHERE key IN ({marks})", some)  # noqa: S608
            found |= {key: json.loads(answer) for key, answer in rows}
        return found

    def keep(self, answers: Iterable[tuple[str, str, Any]]) -> None:
        """(key, about, answer), durable on return should the process die. The first answer to a question stays."""
        rows = [(key, about, json.dumps(answer, ensure_ascii=False)) for key, about, answer in answers]
        try:
            with self._one_at_a_time, self._database:
                self._database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise self._told(error) from None

    def forget(self, records: Iterable[str]) -> int:
        """Remove everything that was said about these records; how many answers that were."""
        gone = 0
        try:
            with self._one_at_a_time, self._database:
                self._database.execute("PRAGMA secure_delete=ON")
                for record in records:
                    gone += self._database.execute("DELETE FROM answers WHERE about = ?", [record]).rowcount
        except sqlite3.Error as error:
            raise self._told(error) from None
        return gone

    def _run(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            with self._one_at_a_time:
                return self._database.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._told(error) from None

    def _told(self, error: Exception) -> StoreError:
        return StoreError(
            f"the answers at {self._path} cannot be used: {error}.",
            remedy="Make the file writable, or remove it: what was asked is then asked again.",
        )


def key_of(asked: Mapping[str, Any]) -> str:
    """The name of an answer. Raises TypeError for what has no stable form.

    >>> key_of({"rule": "x", "question": "a"}) == key_of({"question": "a", "rule": "x"})
    True
    """
    return digest_of(asked)
