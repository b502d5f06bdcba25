"""decontaminate against a plain twin that looks for tuples of words."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core import plugin
from luthier.core.errors import DataError
from luthier.data import words
from luthier.data.opened import Opened
from luthier.data.rules.decontaminate import Decontaminate, _made

from ..test_rules import batch_of, run
from ..test_words import hostile, plain_words

QUESTION = "If a train leaves Ulm at 9:40 and travels 120 km at 80 km/h, when does it arrive in Stuttgart?"
Row = Any


@pytest.fixture
def bench(tmp_path: Path) -> str:
    path = tmp_path / "bench.jsonl"
    rows = [
        {
            "question": "What is the capital of the country that borders on Spain and on the Atlantic only?",
            "answer": "Lisbon",
        },
        {
            "question": QUESTION,
            "choices": ["at ten past eleven", {"other": "it never arrives at all"}],
            "n": 4,
        },
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_what_leaks(bench: str) -> None:
    rows: list[Row] = [
        [("user", f"Please solve: {QUESTION.upper()}"), ("assistant", "11:10")],
        [("user", "hi"), ("assistant", "a train leaves Ulm, at 9:40 — and travels 120 km, at noon")],
        "when a train leaves Ulm at 9:40 and it travels far",
        "at ten past eleven",
        "it never arrives\n at ALL!",
        "they say it never arrives at all",
        [("system", QUESTION), ("user", "u"), ("assistant", "a")],
    ]
    removed = run("decontaminate", batch_of(*rows), against=bench).removed
    assert removed == [
        "10 words in a row stand in row 2 of bench.jsonl: if a train leaves ulm at 9 40 and travels",
        "10 words in a row stand in row 2 of bench.jsonl: a train leaves ulm at 9 40 and travels 120",
        None,
        None,
        "a whole text stands in row 2 of bench.jsonl: it never arrives at all",
        None,
        "10 words in a row stand in row 2 of bench.jsonl: if a train leaves ulm at 9 40 and travels",
    ]
    shorter = run("decontaminate", batch_of(*rows), against=[bench], ngram=8, shortest=4).removed
    assert [why is not None for why in shorter] == [True, True, True, True, True, False, True]


def test_mark_leaves_the_rows_and_counts_them_by_file(bench: str) -> None:
    rule = plugin.load("rule", "decontaminate")
    said = rule.run(
        Opened(batch_of(QUESTION, "nothing", QUESTION + "!")), Decontaminate(against=bench, do="mark")
    )
    assert said.removed is None and said.text is None
    assert {name: told.tolist() for name, told in said.counts.items()} == {"leaks of bench.jsonl": [1, 0, 1]}


def test_every_format_and_several_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'id,question\n1,"{QUESTION}"\n')
    (tmp_path / "b.txt").write_text(
        "one two three four five six seven eight nine ten\n\nanother paragraph of this file\n"
    )
    (tmp_path / "c.json").write_text(json.dumps([{"deep": {"er": ["alpha beta gamma delta epsilon zeta"]}}]))
    table = pa.table(
        {
            "q": ["red orange yellow green blue indigo violet"],
            "n": [1],
            "more": [["black and white and grey"]],
        }
    )
    pq.write_table(table, tmp_path / "d.parquet")
    rows = [QUESTION, "one two three four five six seven eight nine ten eleven", "alpha beta gamma delta epsilon zeta",
            "red orange yellow green blue indigo violet", "black and white and grey", "red orange"]  # fmt: skip
    removed = run("decontaminate", batch_of(*rows), against=[str(tmp_path / "*.*")]).removed
    assert [why and why.split(" row ")[-1].split(":")[0] for why in removed] == [
        "1 of a.csv", "1 of b.txt", "1 of c.json", "1 of d.parquet", "1 of d.parquet", None,
    ]  # fmt: skip


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    path.write_text("one two three four five")
    batch = batch_of("one two three four five", "six seven eight nine ten")
    assert [bool(why) for why in run("decontaminate", batch, against=str(path)).removed] == [True, False]
    before = _made.cache_info()
    run("decontaminate", batch, against=str(path))
    assert _made.cache_info().misses == before.misses
    path.write_text("six seven eight nine ten eleven")
    path.write_text("six seven eight nine ten")
    assert [bool(why) for why in run("decontaminate", batch, against=str(path)).removed] == [False, True]


def test_a_hash_alone_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.txt").write_text("one two three four five")
    monkeypatch.setattr(words, "_hash", lambda told, start, end: (end - start).astype("uint64"))
    removed = run(
        "decontaminate", batch_of("six two eight nine zero"), against=str(tmp_path / "b.txt")
    ).removed
    assert removed == [None]


def test_errors_name_the_value_and_the_remedy(tmp_path: Path, bench: str) -> None:
    with pytest.raises(ValueError, match="shortest 6 is more than ngram 5"):
        Decontaminate(against=bench, ngram=5, shortest=6)
    with pytest.raises(ValueError):
        Decontaminate(against=[])
    with pytest.raises(DataError, match="there is no such file"):
        run("decontaminate", batch_of("a"), against=str(tmp_path / "bnch.jsonl"))
    (tmp_path / "short.txt").write_text("yes\n\nno")
    with pytest.raises(DataError, match="no text there has 5 words or more"):
        run("decontaminate", batch_of("a"), against=str(tmp_path / "short.txt"))


def plain(row: Row, benchmark: list[str], n: int, shortest: int) -> bool:
    def windows(text: str) -> set[tuple[bytes, ...]]:
        told = plain_words(text)
        return {tuple(told[k : k + n]) for k in range(max(1, len(told) - n + 1))} - {()}

    wanted = {window for text in benchmark for window in windows(text) if len(window) >= shortest}
    return any(
        window in wanted
        for text in ([row] if isinstance(row, str) else [t for _, t in row])
        for window in windows(text)
    )


said = st.lists(st.sampled_from(["a", "b", "C", "ä", "字", "d-e", "…"]), max_size=8).map(" ".join) | hostile
row_of = said | st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant"]), said), min_size=1, max_size=3
)


@given(st.lists(row_of, max_size=6), st.lists(said, max_size=4), st.integers(2, 4), st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_what_leaks_is_what_the_twin_finds_row_by_row(
    rows: list[Row], benchmark: list[str], n: int, shortest: int
) -> None:
    benchmark = [*benchmark, "something of many words in a row"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.jsonl"
        path.write_text("".join(json.dumps({"q": text}) + "\n" for text in benchmark))
        wish = {"against": str(path), "ngram": n, "shortest": shortest}
        removed = run("decontaminate", batch_of(*rows), **wish).removed
        assert [why is not None for why in removed] == [plain(row, benchmark, n, shortest) for row in rows]
        for k, row in enumerate(rows):
            assert run("decontaminate", batch_of(row), **wish).removed == [removed[k]]
            assert run("decontaminate", batch_of(*rows).slice(k, 1), **wish).removed == [removed[k]]


def test_no_rows_and_a_row_of_a_megabyte(bench: str) -> None:
    assert run("decontaminate", batch_of().slice(0, 0), against=bench).removed == []
    long = "x" * 1_000_000 + " " + "word " * 200_000 + QUESTION
    assert "row 2 of bench.jsonl" in str(run("decontaminate", batch_of(long), against=bench).removed[0])


def test_in_a_recipe(prepare: Any, jsonl: Any, bench: str) -> None:
    jsonl(
        [
            {"prompt": f"question number {k}: {QUESTION if k % 10 == 0 else 'none'}", "completion": "x"}
            for k in range(60)
        ]
    )
    rules = {"quality": [{"decontaminate": {"against": bench}}]}
    done = prepare({"sources": [{"files": "rows.jsonl"}], "rules": rules})
    assert done.rule("decontaminate")["removed"] == 6
    marked = {"quality": [{"decontaminate": {"against": bench, "do": "mark"}}]}
    done = prepare({"sources": [{"files": "rows.jsonl"}], "rules": marked})
    assert done.rule("decontaminate")["removed"] == 0
    assert done.rule("decontaminate")["counts"] == {"leaks of bench.jsonl": 6}
