"""Answers that cost something are kept once, through kills and beside other processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.core.errors import StoreError
from luthier.store.answers import Answers, key_of

WRITER = """
import sys
from pathlib import Path
from luthier.store.answers import Answers
with Answers(Path(sys.argv[1])) as answers:
    for n in range(int(sys.argv[2]), 10**9):
        answers.keep([(f"key-{n}", "row", n)])
        print(n, flush=True)
"""


def test_the_first_answer_stays(tmp_path: Path) -> None:
    with Answers(tmp_path / "a.db") as answers:
        answers.keep([("k", "row", {"text": "é"}), ("other", "row", [1])])
        answers.keep([("k", "row", {"text": "late"})])
        assert answers.find(["k", "nobody", "other"]) == {"k": {"text": "é"}, "other": [1]}
        assert len(answers.find([f"x{n}" for n in range(2_000)] + ["k"])) == 1
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o600


def test_what_is_forgotten_leaves_no_byte(tmp_path: Path) -> None:
    with Answers(tmp_path / "a.db") as answers:
        answers.keep([("k", "gone", "a secret of somebody"), ("l", "stays", "plain")])
        assert answers.forget(["gone", "unknown"]) == 1
        assert answers.find(["k", "l"]) == {"l": "plain"}
    assert b"a secret of somebody" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_kill_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(start)], stdout=subprocess.PIPE, text=True
        )
        for start in (0, 1_000_000)
    ]
    told = []
    for writer in writers:
        assert writer.stdout is not None
        told += [int(writer.stdout.readline()) for _ in range(20)]
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    with Answers(path) as answers:
        found = answers.find([f"key-{n}" for n in told])
    assert found == {f"key-{n}": n for n in told}


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("no database at all, but long enough to be taken for one" * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        Answers(tmp_path / "a.db")


def test_keys_follow_from_what_was_asked() -> None:
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1}) != key_of({"a": 1, "b": [3]})
    with pytest.raises(TypeError, match="no stable identity"):
        key_of({"a": {1}})
