from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError
from luthier.data.propose import propose
from luthier.data.spec import DataSpec


def tickets(n: int) -> list[dict[str, Any]]:
    return [
        {
            "ticket_id": i,
            "body": f"my problem number {i} is serious",
            "queue": ["billing", "login"][i % 2],
            "customer_id": f"c{i // 3}",
        }
        for i in range(n)
    ]


def test_a_table_of_tickets_is_a_classification_grouped_by_customer(tmp_path: Path, jsonl: Any) -> None:
    name = jsonl(tickets(90))
    found = propose(name, tmp_path)
    assert found.map.value == {"user": "body", "label": "queue", "id": "ticket_id"}
    assert (found.task.value, found.labels) == ("classify", ["billing", "login"])
    assert found.group_by.value == "customer_id"
    assert (found.format, found.layout.value, found.sampled_rows) == ("jsonl", "labelled", 90)
    assert (found.estimate.rows, found.estimate.exact) == (90, True)
    assert [rule for _, rule, _ in found.rules] == ["default"]
    assert "90 answers have only 2 different values" in found.task.reason
    assert all(choice.reason for choice in (found.layout, found.map, found.task, found.group_by, found.split))


def test_what_is_proposed_can_be_run(prepare: Any, tmp_path: Path, jsonl: Any) -> None:
    name = jsonl(tickets(120))
    found = propose(name, tmp_path)
    rules: dict[str, list[Any]] = {}
    for section, rule, _ in found.rules:
        rules.setdefault(section, []).append(rule)
    split = {**found.split.value, "group_by": found.group_by.value}
    data = {"sources": [{"files": name, "map": found.map.value}], "rules": rules, "split": split}
    DataSpec.model_validate(data)
    assert sum(prepare(data, {"kind": found.task.value}).facts["counts"].values()) == 120


def test_free_answers_are_a_chat(tmp_path: Path, jsonl: Any) -> None:
    found = propose(jsonl([{"question": f"q {i}", "answer": f"a {i}"} for i in range(50)]), tmp_path)
    assert (found.task.value, found.labels, found.group_by.value) == ("chat", None, None)
    assert found.map.value == {"user": "question", "assistant": "answer"}


def test_a_pair_with_few_answers_is_a_classification(tmp_path: Path, jsonl: Any) -> None:
    found = propose(
        jsonl([{"prompt": f"q {i}", "completion": ["yes", "no"][i % 2]} for i in range(50)]), tmp_path
    )
    assert (found.task.value, found.map.value) == ("classify", {"user": "prompt", "label": "completion"})


def test_missing_labels_and_crowding_ones_are_seen(tmp_path: Path, jsonl: Any) -> None:
    rows = [{"text": f"t {i}", "label": "big" if i % 10 else "small"} for i in range(100)] + [
        {"text": "x", "label": None}
    ]
    found = propose(jsonl(rows), tmp_path)
    assert found.map.value["on_bad_row"] == "set_aside"
    assert "1 of the first 101 rows have no answer" in found.map.reason
    assert found.rules[-1][:2] == ("quantity", {"balance": {"at_most": "median"}})


@pytest.mark.parametrize("key", [("role", "content", "user", "assistant"), ("from", "value", "human", "gpt")])
def test_conversations_are_looked_into(tmp_path: Path, jsonl: Any, key: tuple[str, str, str, str]) -> None:
    role, content, user, assistant = key
    rows = [
        {"chat": [{role: user, content: f"q {i}"}, {role: assistant, content: ["yes", "no"][i % 2]}]}
        for i in range(50)
    ]
    found = propose(jsonl(rows), tmp_path)
    assert (found.task.value, found.map.value, found.labels) == (
        "classify",
        {"messages": "chat"},
        ["no", "yes"],
    )


def test_plain_text_is_plain_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one\n\ntwo\n")
    found = propose("t.txt", tmp_path)
    assert (found.task.value, found.map.value, found.layout.value) == ("chat", {"text": "text"}, "text")


def test_a_file_without_sense_is_refused(tmp_path: Path, jsonl: Any) -> None:
    with pytest.raises(DataError, match="layout is not recognised"):
        propose(jsonl([{"a": 1, "b": 2}]), tmp_path)
