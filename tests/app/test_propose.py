"""The text of a proposed recipe."""

import json
from pathlib import Path
from typing import Any

from luthier.app.propose import write_recipe


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_recipe_for_pairs_names_the_method(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    write(file, [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(30)])
    given = {"base": "b", "name": "n", "folder": tmp_path, "environ": {}}
    text = write_recipe(str(file), **given)
    assert "map: {user: prompt, chosen: chosen, rejected: rejected}" in text
    assert "every row has a better and a worse answer" in text
    assert "method: dpo" in text and "gate: {" not in text
    write(file, [{"prompt": f"p{i}", "completion": "c", "label": bool(i % 2)} for i in range(30)])
    text = write_recipe(str(file), **given)
    assert "rating: label" in text and "method: kto" in text and "task: {kind: chat}" in text


def test_answers_that_are_all_json_objects_are_an_extraction(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"mail {i}", "answer": json.dumps({"who": f"w{i}", "n": i})} for i in range(40)]
    given = {"base": "b", "name": "n", "folder": tmp_path, "environ": {}}
    write(file, rows)
    text = write_recipe(str(file), **given)
    assert "task: {kind: extract, schema: auto}" in text
    assert "# all 40 answers are JSON objects, with the keys 'who', 'n'." in text
    assert "gate: {field_f1: {better_than: base}}" in text
    write(file, [{"text": f"mail {i}", "extracted": {"who": f"w{i}"}} for i in range(40)])
    text = write_recipe(str(file), **given)
    assert "task: {kind: extract, schema: auto}" in text and "map: {user: text, assistant: extracted}" in text
    write(file, [*rows, {"question": "q", "answer": "no idea"}])
    assert "task: {kind: chat}" in write_recipe(str(file), **given)
