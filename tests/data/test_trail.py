"""Every change of a row leaves a line with its reason and no text; removals have theirs in removed.parquet."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.rules.rule import RowRule


def trail(done):
    return pq.read_table(done.out / "trail.parquet").to_pylist()


def data(*quality, **more):
    return {"sources": [{"files": "rows.jsonl"}], "rules": {"quality": list(quality)}, **more}


def rows(*prompts):
    return [{"prompt": text, "completion": "yes"} for text in prompts] + [
        {"prompt": f"Filler {n}", "completion": "no"} for n in range(30)
    ]


def test_each_change_has_a_line_with_its_step_and_reason(prepare, jsonl):
    jsonl(rows("two  blanks", "Cafe\u0301"))
    done = prepare(data("normalize", "drop_empty"))
    lines = trail(done)
    by_id = {row["id"]: row["messages"][0]["content"] for row in done.rows()}
    told = {by_id[line["id"]]: (line["step"], line["what"], line["why"]) for line in lines}
    assert set(told) == {"two blanks", "Café"} and {one[:2] for one in told.values()} == {(1, "changed")}
    assert done.rules[1]["rule"] == "normalize" and done.rules[1]["changed"] == len(lines)
    assert "blanks" not in json.dumps(lines)  # a reason, never a text
    assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)


def test_a_row_that_goes_later_keeps_its_lines_and_one_that_went_gets_none(prepare, jsonl):
    jsonl(rows("x  y", " "))
    done = prepare(data("drop_empty", "normalize"))
    (gone,) = done.removed()
    assert gone["rule"] == "drop_empty" and gone["id"] not in {line["id"] for line in trail(done)}
    assert [line["step"] for line in trail(done)] == [2]


def test_no_change_gives_an_empty_file(prepare, jsonl):
    jsonl(rows("plain"))
    assert trail(prepare(data())) == []


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(["a", " a", "a  b", "a b", "Cafe\u0301", "x\u00ad"]), min_size=1, max_size=12)
)
def test_the_lines_are_the_changes_that_are_counted(tmp_path_factory, texts):
    from luthier.core.testing import FakeContext
    from luthier.data.prepare import STAGE, PrepareSpec

    folder = tmp_path_factory.mktemp("trail")
    lines = "".join(json.dumps(row) + "\n" for row in rows(*texts))
    (folder / "rows.jsonl").write_text(lines)
    (folder / "out").mkdir()
    (folder / "scratch").mkdir()
    spec = PrepareSpec.model_validate({"data": data("normalize", "drop_empty", "normalize")})
    STAGE.function(spec, {}, folder / "out", folder / "scratch", FakeContext(folder, root=folder))
    told = pq.read_table(folder / "out" / "trail.parquet").to_pylist()
    rules = json.loads((folder / "out" / "rules.json").read_text())
    for number, rule in enumerate(rules):
        assert sum(line["step"] == number for line in told) == rule["changed"]


def test_the_steps_are_places_in_rules_json_whatever_the_groups(prepare, jsonl):
    """Row rules before and after a keyed one are of different groups; their numbers go on."""
    jsonl(rows("a  b", "a  b"))
    done = prepare(data("normalize", "deduplicate", "drop_empty", "normalize"))
    assert [rule["rule"] for rule in done.rules][:5] == [
        "read",
        "normalize",
        "deduplicate",
        "drop_empty",
        "normalize",
    ]
    assert {done.rules[line["step"]]["rule"] for line in trail(done)} == {"normalize"}


def test_a_change_of_weight_is_named_so():
    import pyarrow as pa

    from luthier.core.spec import Spec
    from luthier.data.engines.group import run_group
    from luthier.data.plan import Group, Step
    from luthier.data.records import RECORD
    from luthier.data.rules.rule import Said

    def halve(opened, settings):
        weight = pa.array([0.5] * len(opened), pa.float32())
        return Said(columns={"weight": weight}, changed=pa.array(["older"] * len(opened)))

    rule = RowRule("halve", 1, Spec, "", halve)
    batch = pa.RecordBatch.from_pylist([{"id": "a", "text": "x", "weight": 1.0}], RECORD)
    found = run_group(Group((Step(rule, Spec(), number=7),)), batch)
    (lines,) = found.removed
    (line,) = lines.to_pylist()
    assert (line["id"], line["step"], line["what"], line["reason"]) == ("a", 7, "weighed", "older")
    assert found.batch["weight"].to_pylist() == [0.5]
