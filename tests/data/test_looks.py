"""How a file looks: the likeliest layout, what else it could be, and how many rows fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.data.looks import look
from luthier.data.shapes import LESS_SURE, detect
from luthier.data.spec import SourceSpec

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def looked(folder: Path, rows: list[dict[str, Any]]) -> Any:
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return look(SourceSpec.model_validate({"files": "t.jsonl"}), folder)


def test_one_layout_is_sure_and_alone(tmp_path: Path) -> None:
    found = looked(tmp_path, [{"messages": CHAT}] * 3)
    assert [one.shape.name for one in found.looks] == ["messages"] and found.sure
    assert (found.looks[0].fits, found.looks[0].first_fault) == (3, None)
    assert found.looks[0].written == {"messages": "messages"}


def test_two_labels_are_less_sure_than_one_and_both_are_named(tmp_path: Path) -> None:
    one = looked(tmp_path, [{"text": "t", "queue": "a"}]).looks[0]
    found = looked(tmp_path, [{"text": "t", "queue": "a", "priority": "b"}])
    first, second = found.looks[:2]
    assert first.shape.confidence == one.shape.confidence * LESS_SURE
    assert (first.shape.map.label, second.shape.map.label) == ("queue", "priority")
    assert second.shape.confidence < first.shape.confidence and not found.sure
    assert "1 other choice of columns would do as well" in first.shape.reason


def test_the_rows_say_how_well_a_guess_fits(tmp_path: Path) -> None:
    found = looked(tmp_path, [{"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": None}])
    [only] = found.looks
    assert only.fits == 1
    assert only.first_fault == "t.jsonl:2: the answer is missing ('completion' is empty)"


def test_what_else_it_could_be_never_changes_what_is_taken() -> None:
    row = {"prompt": "p", "completion": "c", "label": True, "text": "t"}
    shape = detect(list(row), [row], "t")
    assert shape.name == "rated" and shape.map.rating == "label"
    assert {other.name for other in shape.others} == {"prompt-completion", "labelled", "text"}
    assert len({str(other.map) for other in (shape, *shape.others)}) == 1 + len(shape.others)
