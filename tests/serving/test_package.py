"""What a model folder says, and that serving puts the instruction where preparing put it."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import ModelError
from luthier.data.records import with_instruction
from luthier.serving.engine import Message
from luthier.serving.package import PackageFacts, instructed, read_facts

TASK = {"kind": "classify", "instruction": "Route it.", "labels": ["billing", "login"]}


def facts(folder, **written):
    (folder / "luthier.json").write_text(json.dumps(written))
    return read_facts(folder)


def test_the_three_roles_of_a_folder(tmp_path):
    assert read_facts(tmp_path) == PackageFacts()
    assert facts(tmp_path, role="base", name="x", parameters=1) == PackageFacts()
    tuned = facts(tmp_path, role="tuned", adapter="lora", base_digest="0", task=TASK)
    assert tuned == PackageFacts("Route it.", "system", ("billing", "login"))
    package = facts(
        tmp_path,
        role="package",
        form="adapter",
        task={**TASK, "instruction_role": "user"},
        constrain="labels",
        abstain_below=0.6,
    )
    assert package == PackageFacts("Route it.", "user", ("billing", "login"), True, 0.6)
    chat = facts(
        tmp_path, role="package", task={"kind": "chat", "instruction": None, "labels": None}, constrain=None
    )
    assert chat == PackageFacts()


@pytest.mark.parametrize("written", [{"constrain": "labels"}, {"constrain": "labels", "task": {"labels": []}}, {"constrain": "json"}, {"abstain_below": 2},
                                     {"task": {"labels": [""]}}, {"task": 3}, {"task": {"instruction_role": "tool"}}])  # fmt: skip
def test_a_file_that_was_edited_badly(tmp_path, written):
    with pytest.raises(ModelError, match=r"luthier\.json: "):
        facts(tmp_path, **written)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_file_that_is_not_json(tmp_path, text):
    (tmp_path / "luthier.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match="Package the model again"):
        read_facts(tmp_path)


turns = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=8)), min_size=1, max_size=4
)


@given(st.booleans(), turns, st.sampled_from(["system", "user"]))
def test_the_instruction_stands_where_preparing_put_it(has_system, said, role):
    messages = ([("system", "mine")] if has_system else []) + said
    served = instructed(tuple(Message(r, c) for r, c in messages), PackageFacts("Route it.", role))
    assert [m.plain() for m in served] == prepared(messages, role)


def prepared(messages, role):
    from luthier.data.records import RECORD

    row = dict.fromkeys(RECORD.names)
    row |= {
        "id": "0",
        "messages": [{"role": r, "content": c} for r, c in messages],
        "source": "s",
        "origin": "o:1",
        "weight": 1.0,
    }
    batch = pa.RecordBatch.from_pylist([row], schema=RECORD)
    return with_instruction(batch, "Route it.", role).to_pylist()[0]["messages"]
