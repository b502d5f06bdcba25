"""Several processes give the bytes that one gives; one that dies is replaced, and an error or an interrupt ends them all."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from luthier.core.errors import DataError, Interrupted, StoreError
from luthier.data.engines import parallel, pool
from luthier.data.engines.pool import Pool
from luthier.data.engines.protocol import LocalEngineSpec
from luthier.data.engines.spool import Spool

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "it",
    "you",
    "that",
    "he",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "his",
    "they",
    "be",
    "at",
    "one",
    "have",
    "this",
]
RULES = {
    "quality": [
        "normalize",
        {"length": {"min": 6, "on": "user"}},
        "deduplicate",
        {"near_duplicates": {"similarity": 0.7, "on": "user"}},
        "redact",
    ],
    "quantity": [{"balance": {"at_most": 12}}, {"augment": {"ways": ["swap"]}}, "agree"],
}
CLASSIFY = {"kind": "classify"}


def lines(n: int) -> list[dict[str, Any]]:
    """With equal rows, near ones, short ones and rows that lack their label."""
    rows = []
    for k in range(n):
        words = [WORDS[(k // 3 * 7 + j * (3 + k // 3 % 5)) % len(WORDS)] for j in range(14)]
        if k % 3 == 1:
            words[-1] = "another"
        text = "  ".join(words) if k % 11 else "a"
        rows.append({"text": f"{text} {k // 3}", "label": None if k % 29 == 5 else f"label {k % 4}"})
    return rows


def wish(workers: int, **more: Any) -> dict[str, Any]:
    source = {"files": "*.jsonl", "map": {"user": "text", "label": "label", "on_bad_row": "set_aside"}}
    return {"sources": [source], "rules": RULES, "engine": {"local": {"workers": workers}}, **more}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PART_BYTES", 4_000)


def test_bytes_are_those_of_one_process(prepare: Any, jsonl: Any, small_parts: None) -> None:
    jsonl(lines(260), "a.jsonl")
    for k in range(5):
        jsonl(lines(9 + k), f"b{k}.jsonl")
    alone = prepare(wish(1), CLASSIFY)
    three = prepare(wish(3), CLASSIFY)
    assert three.bytes() == alone.bytes()
    changes = {one["rule"]: one["removed"] + one["changed"] + one["added"] for one in alone.rules}
    assert all(changes[name] for name in ("read", "normalize", "length", "deduplicate", "near_duplicates"))
    assert changes["balance"] and changes["augment"]


def test_the_error_is_that_of_the_first_row(prepare: Any, jsonl: Any, small_parts: None) -> None:
    rows = lines(260)
    jsonl(rows)
    data = wish(2)
    data["sources"] = [{"files": "rows.jsonl", "map": {"user": "text", "label": "label"}}]
    with pytest.raises(DataError, match=r"rows\.jsonl:6: the label is missing"):
        prepare(data, CLASSIFY)


def features(tmp_path: Path, n: int) -> tuple[str, list[dict[str, Any]]]:
    """Tasks for a pool, without a row."""
    from luthier.data.records import RECORD

    wanted = Spool(tmp_path / "wanted", pa.schema([("row", pa.int64()), ("id", pa.string())]))
    rows = Spool(tmp_path / "rows", RECORD)
    for spool in (wanted, rows):
        spool.write(pa.RecordBatch.from_pylist([], spool.schema))
        spool.close()
    task = {
        "do": "features",
        "into": str(tmp_path / "x"),
        "rows": str(rows.path),
        "wanted": str(wanted.path),
        "start": 0,
    }
    return json.dumps(["near_duplicates", {}, False, 1, None, None]), [dict(task) for _ in range(n)]


@pytest.mark.parametrize("deaths", [1, 9])
def test_a_process_that_dies_is_replaced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    given = pool._Child.give
    left = deaths

    def and_die(child: pool._Child, task: Any) -> None:
        nonlocal left
        given(child, task)
        if left:
            left -= 1
            child._process.kill()

    monkeypatch.setattr(pool._Child, "give", and_die)
    processes = Pool(1, lambda: None)
    program, tasks = features(tmp_path, 3)
    try:
        if deaths == 1:
            assert [one["told"] for one in processes.run(program, tasks)] == [False] * 3
        else:
            with pytest.raises(StoreError, match="was ended by SIGKILL twice over the same rows"):
                list(processes.run(program, tasks))
    finally:
        processes.close()


def test_who_wants_to_stop_ends_all_processes(tmp_path: Path) -> None:
    def check() -> None:
        raise Interrupted("stopped", remedy="again")

    processes = Pool(2, check)
    program, tasks = features(tmp_path, 4)
    with pytest.raises(Interrupted):
        list(processes.run(program, tasks))
    started = [child._process for child in processes._children]
    processes.close()
    assert len(started) == 2 and all(one.returncode is not None for one in started)


def test_what_goes_wrong_in_a_process_is_told_with_its_place(tmp_path: Path) -> None:
    processes = Pool(1, lambda: None)
    program, tasks = features(tmp_path, 1)
    tasks[0]["rows"] = str(tmp_path / "nowhere")
    with pytest.raises(RuntimeError, match=r"in a process of the local engine:[\s\S]*nowhere"):
        list(processes.run(program, tasks))
    processes.close()


def test_small_sources_need_no_other_process() -> None:
    from luthier.data.connectors.protocol import Part

    small: Any = [(None, Part({}, parallel.LEAST_BYTES // 2))]
    assert parallel.workers_for(LocalEngineSpec(), small) == 1
    assert parallel.workers_for(LocalEngineSpec(workers=3), small) == 3
    assert 1 <= parallel.workers_for(LocalEngineSpec(), small * 2) <= parallel.MOST_WORKERS


def test_workers_are_no_part_of_a_datasets_identity() -> None:
    from luthier.data.prepare import PrepareSpec

    one, other = (PrepareSpec.model_validate({"data": wish(n)}).plain() for n in (1, 3))
    assert one == other


def test_long_tasks_and_long_answers_pass_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both longer than a pipe holds: neither side may wait for the other to read first."""
    code = (
        "from luthier.data.engines import chores, pool\n"
        "chores.CHORES = {'echo': lambda program, text: {'done': text}}\n"
        "pool._serve()"
    )
    start = subprocess.Popen

    def scripted(command: list[str], **more: Any) -> Any:
        return start([command[0], "-c", code], **more)

    monkeypatch.setattr(subprocess, "Popen", scripted)
    children = pool.Pool(2, lambda: None)
    try:
        texts = [f"{n}" * 300_000 for n in range(8)]
        tasks = [{"do": "echo", "text": text} for text in texts]
        with ThreadPoolExecutor(1) as threads:
            done = threads.submit(lambda: [one["done"] for one in children.run("", tasks)])
            try:
                assert done.result(timeout=60) == texts
            finally:
                children.close()  # which ends the thread's wait, too
    finally:
        children.close()
