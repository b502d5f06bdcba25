"""Our test rows in the harness' form; nothing here needs the harness itself."""

import json

import pytest

from luthier.core.errors import DataError, SpecError
from luthier.evaluation.harness.safely import fingerprint
from luthier.evaluation.harness.tasks import configs, lines, yaml_of
from luthier.evaluation.questions import Question

SYSTEM = {"role": "system", "content": "Route."}


def user(text):
    return {"role": "user", "content": text}


def test_rows_keep_prompt_and_label():
    asked = [Question("b", (SYSTEM, user("parcel")), "delivery"), Question("a", (user("bill"),), "billing")]
    found, left = lines(asked, ["billing", "delivery"])
    assert left == 0
    assert [json.loads(line) for line in found] == [
        {"id": "b", "system": "Route.", "user": "parcel", "answer": "delivery", "label": 1},
        {"id": "a", "system": "", "user": "bill", "answer": "billing", "label": 0},
    ]


def test_rows_of_several_questions_tools_and_plain_texts_are_left_out_and_counted():
    turns = (user("a"), {"role": "assistant", "content": "b"}, user("c"))
    asked = [
        Question("1", turns, "d"),
        Question("2", None, "a text"),
        Question("3", (user("a"),), "b", tools=[{"type": "function"}]),
        Question("4", (user("a"),), "b"),
    ]
    found, left = lines(asked, None)
    assert (len(found), left) == (1, 3)
    with pytest.raises(DataError, match="none of the 3 test rows"):
        lines(asked[:3], None)


def test_a_label_that_looks_like_another_type_stays_text():
    import yaml

    task = {"kind": "classify", "labels": ["no", "1e3", "- x", "null"]}
    found = configs("router", task, "/tmp/test.jsonl", 128)
    assert list(found) == ["router", "router_written"]
    read = yaml.safe_load(yaml_of(found["router"]))
    assert read["doc_to_choice"] == ["no", "1e3", "- x", "null"] and read["target_delimiter"] == ""
    assert read["dataset_kwargs"]["data_files"] == {"test": "/tmp/test.jsonl"}


def test_a_chat_tasks_answers_may_be_as_long_as_ours():
    (config,) = configs("helper", {"kind": "chat", "labels": None}, "test.jsonl", 77).values()
    assert config["generation_kwargs"] == {"until": [], "do_sample": False, "max_gen_toks": 77}


@pytest.mark.parametrize(
    "line",
    ["process_docs: !function utils.f", "unsafe_code: true", "  trust_remote_code: True"],
)
def test_a_folder_of_tasks_may_run_no_code(tmp_path, line):
    (tmp_path / "t.yaml").write_text(f"task: t\n{line}\n")
    with pytest.raises(SpecError, match="would run code") as caught:
        fingerprint(tmp_path)
    assert "luthier serve" in caught.value.remedy


def test_the_folders_identity_is_its_bytes(tmp_path):
    (tmp_path / "t.yaml").write_text("task: t\n")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert fingerprint(tmp_path) != before
    with pytest.raises(SpecError, match="is not a folder"):
        fingerprint(tmp_path / "nowhere")
