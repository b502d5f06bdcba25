"""What disagrees, and the primitive against a plain twin."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.rules.primitives import Agree
from luthier.data.testing import batch_of, decided, keys, opened


def asked(user: str, answer: str, system: str = "") -> list[tuple[str, str]]:
    start = [("system", system)] if system else []
    return [*start, ("user", user), ("assistant", answer)]


def plain(rows: list[tuple[str, str | None, str | None]], how: str) -> dict[int, str]:
    """The same decision over (id, input, answer), row by row."""
    why = {}
    for n, (_, question, answer) in enumerate(rows):
        if question is None or how == "mark":
            continue
        answers = Counter(a for _, q, a in rows if q == question)
        if len(answers) == 1:
            continue
        most, size = max(answers.values()), sum(answers.values())
        leaders = [a for a, times in answers.items() if times == most]
        if how == "drop":
            why[n] = f"one of {len(answers)} answers to the same input"
        elif len(leaders) > 1:
            why[n] = f"no majority among {len(answers)} answers to the same input"
        elif answer != leaders[0]:
            why[n] = f"{most} of {size} rows with the same input answer otherwise"
    return why


@given(
    st.lists(st.tuples(st.sampled_from([None, "p", "q", "r"]), st.sampled_from("abc")), max_size=14),
    st.sampled_from(["drop", "majority", "mark"]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None)
def test_the_primitive_decides_as_its_plain_twin_whatever_the_order(
    pairs: Any, how: Any, random: Any
) -> None:
    rows = [(f"{n:02}", question, answer if question else None) for n, (question, answer) in enumerate(pairs)]
    random.shuffle(rows)
    columns = (
        dict(zip(("id", "input", "answer"), map(list, zip(*rows, strict=True)), strict=True))
        if rows
        else None
    )
    if columns is None:
        return
    found, notes = decided(Agree(how), {k: pa_strings(v) for k, v in columns.items()})
    assert found == plain(rows, how)
    marked = plain(rows, "drop")
    disagreeing = {rows[n][1] for n in marked}
    if disagreeing:
        first = min(rows[n][0] for n in marked)
        assert notes == [
            f"{len(disagreeing)} inputs stand there with more than one answer, in {len(marked)} rows; one of them is row:{first}"
        ]
    else:
        assert notes == []


def pa_strings(values: list[str | None]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())


def gone(rows: list[Any], how: str, **columns: Any) -> list[int]:
    found = keys("agree", opened(*rows, **columns), how=how)
    return sorted(decided(Agree(how), {k: pa_strings(list(v)) for k, v in found.items()})[0])  # type: ignore[arg-type]


def test_what_is_asked_is_all_that_stands_before_the_answer() -> None:
    rows = [
        asked("Is it so?", "yes"),
        asked(" is  IT so?", "YES"),  # folded, the same
        asked("Is it so?", "no", system="Say no."),  # asked something else
        asked("Is it so?", "no"),
        [("user", "Is it so?"), ("assistant", "well"), ("user", "so?"), ("assistant", "yes")],
        [("user", "Is it so?"), ("assistant", "hm"), ("user", "so?"), ("assistant", "no")],
        "Is it so?",
    ]
    assert gone(rows, "drop") == [0, 1, 3]
    assert gone(rows, "majority") == [3]
    assert gone(rows, "mark") == []


def test_pairs_and_ratings_are_left_alone() -> None:
    rows = [asked("q", "a"), [*asked("q", "b"), ("rejected", "c")], asked("q", "d")]
    assert gone(rows, "drop", rating=[None, None, 1.0]) == []


def test_with_a_tie_all_go() -> None:
    rows = [asked("q", answer) for answer in "aabbc"]
    assert gone(rows, "majority") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("how", "left"), [("drop", 30), ("majority", 32), ("mark", 33)])
def test_rows_from_a_file(prepare: Any, jsonl: Any, how: str, left: int) -> None:
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(30)]
    jsonl([*rows, {"text": "x", "label": "a"}, {"text": "X ", "label": "a"}, {"text": "x", "label": "b"}])
    done = prepare(
        {"sources": [{"files": "rows.jsonl"}], "rules": {"quality": [{"agree": {"how": how}}]}},
        {"kind": "classify"},
    )
    assert len(done.rows()) == left
    assert done.rule("agree")["notes"][0].startswith(
        "1 inputs stand there with more than one answer, in 3 rows"
    )


def test_keys_of_an_empty_batch_and_of_a_slice() -> None:
    from luthier.data.opened import Opened

    assert keys("agree", Opened(batch_of()))["input"] == []
    whole = batch_of(asked("p", "a"), asked("q", "b"), "x")
    part = keys("agree", Opened(whole.slice(1, 2)))
    assert part["input"] == keys("agree", Opened(whole))["input"][1:]


def test_calls_belong_to_the_question_or_to_the_answer_by_where_they_stand(prepare, jsonl):
    def row(asked, *turns):
        return {"tools": TOOLS, "messages": [{"role": "user", "content": asked}, *turns]}

    def called(name, **given):
        one = {"id": "c", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
        return {"role": "assistant", "content": None, "tool_calls": [one]}

    def said(text):
        return {"role": "assistant", "content": text}

    TOOLS = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
        for name in ("book", "cancel")
    ]
    sent = {"role": "tool", "tool_call_id": "c", "content": "done"}
    rows = [
        # other calls before the answer are another question
        row("One?", called("book", dry=True), sent, said("Yes.")),
        row("One?", called("book", dry=False), sent, said("No.")),
        # other calls behind it are another answer
        row("Two?", {**called("book"), "content": "Sure."}),
        row("Two?", {**called("cancel"), "content": "Sure."}),
    ]
    rows += [row(f"Question {n}?", said("Yes.")) for n in range(40)]
    wish = {
        "sources": [{"files": jsonl(rows)}],
        "rules": {"quality": [{"agree": {"how": "drop"}}]},
        "split": {"validation": 0, "test": 0},
    }
    done = prepare(wish, {"kind": "chat"})
    assert {one["origin"] for one in done.removed()} == {"rows.jsonl:3", "rows.jsonl:4"}
