"""The stage as a whole: what it leaves, that it is the same again, and what it refuses."""

from __future__ import annotations

import errno
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError, Interrupted, SpecError, StoreError
from luthier.core.testing import FakeContext
from luthier.data import shards
from luthier.data.engines import keys, local
from luthier.data.lineage import find_row, rows
from luthier.data.prepare import STAGE, PrepareSpec

Prepare = Any  # the fixture of conftest.py: data and task in, what one run left behind out
RULES = {
    "quality": ["normalize", "drop_empty", {"length": {"min": 3}}, "deduplicate"],
    "quantity": ["balance"],
}
CLASSIFY = {"kind": "classify"}


def labelled(n: int, labels: tuple[str, ...] = ("billing", "login", "other")) -> list[dict[str, Any]]:
    """Every tenth has blanks to repair, every fifteenth repeats the one before."""
    texts = [
        f"message  number {i}" if i % 10 == 0 else f"message number {i - (i % 15 == 14)}" for i in range(n)
    ]
    return [
        {"text": text, "label": labels[(i - (i % 15 == 14)) % len(labels)]} for i, text in enumerate(texts)
    ]


def one(files: str = "rows.jsonl", **more: Any) -> dict[str, Any]:
    return {"sources": [{"files": files, **more}]}


def test_a_classification_from_rows_to_files(prepare: Prepare, jsonl: Any) -> None:
    given = [*labelled(90), {"text": "\u200b", "label": "login"}]
    jsonl(given)
    done = prepare({**one(), "rules": RULES}, CLASSIFY)
    # 91 rows: 9 repaired and the blank one; 1 empty; 6 repeats (14, 29, .., 89), all in the place of an "other"; 84 stay
    names = [
        (entry["rule"], entry["rows_in"], entry["rows_out"], entry["removed"], entry["changed"])
        for entry in done.rules
    ]
    assert names == [
        ("read", 91, 91, 0, 0),
        ("normalize", 91, 91, 0, 10),
        ("drop_empty", 91, 90, 1, 0),
        ("length", 90, 90, 0, 0),
        ("deduplicate", 90, 84, 6, 0),
        ("balance", 62, 56, 6, 0),
    ]
    # 22 of 84 rows are held out and none of the rules of quantity touches them; of 62 the median label keeps its own.
    assert [len(entry["examples"]) for entry in done.rules] == [0, 5, 1, 0, 5, 5]
    examples = done.rule("normalize")["examples"]
    assert [one["id"] for one in examples] == sorted(one["id"] for one in examples)
    assert all(
        one["after"] == one["before"].replace("  ", " ").strip("\u200b") for one in examples if one["after"]
    )
    assert done.facts["task"]["labels"] == ["billing", "login", "other"]
    assert {label: sum(sides.values()) for label, sides in done.facts["labels"].items()} == {
        "billing": 24,
        "login": 30,
        "other": 24,
    }
    assert done.facts["counts"]["train"] == 56 and sum(done.facts["counts"].values()) == 78
    assert len(done.removed()) == 13
    row = done.rows()[0]
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][0]["content"].endswith("nothing else: billing, login, other")
    assert row["label"] == row["messages"][-1]["content"]
    assert given[int(row["origin"].partition(":")[2]) - 1]["label"] == row["label"]
    for name in ("train", "validation", "test", "removed"):
        ids = [row["id"] for row in done.split(name)]
        assert ids == sorted(ids)
    characters = sum(len(turn["content"]) for row in done.rows() for turn in row["messages"])
    assert done.facts["characters"] == characters
    assert done.summary == {**done.facts["counts"], "removed": 13, "labels": 3}


def test_the_same_rows_give_the_same_bytes(prepare: Prepare, jsonl: Any) -> None:
    jsonl(labelled(90))
    assert (
        prepare({**one(), "rules": RULES}, CLASSIFY).bytes()
        == prepare({**one(), "rules": RULES}, CLASSIFY).bytes()
    )


def test_the_order_of_rows_changes_nothing_but_where_they_came_from(prepare: Prepare, jsonl: Any) -> None:
    given = labelled(90)
    outcomes = []
    for seed in (None, 1, 2):
        if seed is not None:
            random.Random(seed).shuffle(given)
        jsonl(given)
        found = prepare({**one(), "rules": RULES}, CLASSIFY).rows()
        outcomes.append([{k: v for k, v in row.items() if k != "origin"} for row in found])
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_identical_rows_have_ids_of_their_own_whatever_their_order(prepare: Prepare, jsonl: Any) -> None:
    given = [{"text": "same", "label": "a", "who": who} for who in "zyx"] + [
        {**row, "who": str(i)} for i, row in enumerate(labelled(40))
    ]
    found = []
    for order in (given, given[::-1]):
        jsonl(order)
        done = prepare(
            {
                **one(map={"user": "text", "label": "label", "group": "who"}),
                "split": {"validation": 0, "test": 0},
            }
        )
        found.append(
            {row["id"]: row["group"] for row in done.rows()}
            | {row["id"]: "set aside" for row in done.removed()}
        )
    assert found[0] == found[1]
    assert len(found[0]) == 43
    first = next(i for i, who in found[0].items() if who == "x")
    assert (found[0][f"{first}-2"], found[0][f"{first}-3"]) == ("y", "z")


def test_several_sources_keep_their_names_and_weights(prepare: Prepare, jsonl: Any) -> None:
    jsonl(labelled(30), "a.jsonl")
    jsonl([{"prompt": f"p{i}", "completion": "c"} for i in range(20)], "b.jsonl")
    sources = [
        {"files": "a.jsonl"},
        {"files": ["b.jsonl"], "weight": 0.5, "name": "chat"},
        {"files": "a.jsonl", "weight": 2},
    ]
    done = prepare({"sources": sources})
    found = {(row["source"], row["weight"]) for row in done.rows()}
    assert found == {("a.jsonl", 1.0), ("chat", 0.5), ("a.jsonl#2", 2.0)}
    assert len(done.rows()) == 80


def test_an_id_column_names_rows_and_must_not_repeat(prepare: Prepare, jsonl: Any) -> None:
    mapped = {"map": {"user": "text", "label": "label", "id": "nr"}}
    jsonl([{**row, "nr": i} for i, row in enumerate(labelled(40))])
    ids = {row["origin"]: row["id"] for row in prepare(one(**mapped)).rows()}
    jsonl([{**row, "nr": i, "text": row["text"] + "!"} for i, row in enumerate(labelled(40))])
    assert {row["origin"]: row["id"] for row in prepare(one(**mapped)).rows()} == ids
    jsonl([{**row, "nr": i % 39} for i, row in enumerate(labelled(40))])
    with pytest.raises(DataError, match=r"rows\.jsonl:40: the id is the same as that of rows\.jsonl:1\."):
        prepare(one(**mapped))
    jsonl([{**row, "nr": None} for row in labelled(40)])
    with pytest.raises(DataError, match=r"rows\.jsonl:1: the id is missing"):
        prepare(one(**mapped))


def test_the_instruction_goes_where_no_system_message_is(prepare: Prepare, jsonl: Any) -> None:
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    own = [{"role": "system", "content": "own"}]
    jsonl(
        [
            {"messages": [*own * (i % 2), {**turns[0], "content": f"u{i}"}, turns[1], *turns]}
            for i in range(30)
        ]
    )
    split = {"split": {"validation": 0, "test": 0}}
    done = prepare({**one(), **split}, {"instruction": "told"})
    assert {row["messages"][0]["content"] for row in done.rows()} == {"told", "own"}
    assert all(
        [t["role"] for t in row["messages"]] == ["system", "user", "assistant", "user", "assistant"]
        for row in done.rows()
    )
    done = prepare({**one(), **split}, {"instruction": "told", "instruction_role": "user"})
    firsts = [row["messages"][0]["content"] for row in done.rows()]
    assert sum(text.startswith("told\n\nu") for text in firsts) == 15
    assert firsts.count("own") == 15
    ids = {row["id"] for row in done.rows()}
    assert {row["id"] for row in prepare({**one(), **split}).rows()} == ids


def test_plain_text_gets_no_instruction(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n\n".join(f"paragraph {i}" for i in range(40)))
    done = prepare({**one("t.txt"), "rules": {"quality": RULES["quality"]}}, {"instruction": "told"})
    assert {(row["messages"], row["label"]) for row in done.rows()} == {(None, None)}
    assert sorted(row["text"] for row in done.rows())[0] == "paragraph 0"


def test_rows_in_removed_and_out_add_up_when_sorting_by_parts(
    prepare: Prepare, jsonl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl(labelled(300))
    whole = prepare({**one(), "rules": RULES}, CLASSIFY)
    monkeypatch.setattr(shards, "SHARD_BYTES", 2_000)
    monkeypatch.setattr(keys, "KEYS_AT_ONCE", 7)
    parts = prepare({**one(), "rules": RULES}, CLASSIFY)
    assert parts.rows() == whole.rows()
    assert parts.removed() == whole.removed()


def test_a_bad_row_stops_the_line_or_is_set_aside_with_its_reason(prepare: Prepare, jsonl: Any) -> None:
    jsonl([*labelled(40), {"text": "no label", "label": None}, {"text": "none at all"}])
    with pytest.raises(DataError) as caught:
        prepare(one(), CLASSIFY)
    assert "rows.jsonl:41: the label is missing ('label' is empty)." in str(caught.value)
    assert "on_bad_row: set_aside" in str(caught.value)
    done = prepare(one(map={"on_bad_row": "set_aside"}), CLASSIFY)
    assert [
        (r["origin"], r["rule"], r["reason"], r["preview"])
        for r in sorted(done.removed(), key=lambda r: r["origin"])
    ] == [
        ("rows.jsonl:41", "read", "the label is missing ('label' is empty)", "no label"),
        ("rows.jsonl:42", "read", "the label is missing ('label' is empty)", "none at all"),
    ]
    assert (done.rule("read")["rows_in"], done.rule("read")["removed"]) == (42, 2)


@pytest.mark.parametrize(
    ("given", "task", "told"),
    [
        ([*labelled(40), {"text": "x", "label": "biling"}], {**CLASSIFY, "labels": ["billing", "login", "other"]},
         r"rows\.jsonl:41: the label 'biling' is not in task\.labels\.(.|\n)*did you mean 'billing'"),
        ([*labelled(40), {"text": "x", "label": " "}], CLASSIFY, r"rows\.jsonl:41: the label is empty"),
        (labelled(40, ("a",)), CLASSIFY, "every row has the label 'a'"),
        ([{"text": f"t{i}", "label": f"answer {i}"} for i in range(40)], CLASSIFY, "looks like free text(.|\n)*kind: chat"),
        ([{"text": f"t{i}", "label": f"answer {i % 201}"} for i in range(603)], CLASSIFY, "603 rows have 201 different labels"),
        ([{"text": f"t{i}"} for i in range(40)], CLASSIFY, "a classifier needs a label for every row"),
        (labelled(2), CLASSIFY, "the split leaves no row in test"),
        ([{"prompt": "same", "completion": str(i)} for i in range(40)], {}, "leaves no row in (test|train)(.|\n)*different inputs"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_is_refused(
    prepare: Prepare, jsonl: Any, given: list[Any], task: dict[str, Any], told: str
) -> None:
    jsonl(given)
    with pytest.raises(DataError, match=told):
        prepare(one(), task)


def test_no_row_left_names_the_rule_that_took_them(prepare: Prepare, jsonl: Any) -> None:
    jsonl(labelled(40))
    with pytest.raises(DataError, match="no row is left: 40 were read, length removed 40"):
        prepare({**one(), "rules": {"quality": [{"length": {"min": 1000}}]}})


def test_a_missing_source_is_told_before_another_is_read(prepare: Prepare, jsonl: Any) -> None:
    jsonl(labelled(3))
    with pytest.raises(DataError, match=r"absent\.jsonl: there is no such file"):
        prepare(
            {"sources": [{"files": "rows.jsonl", "map": {"text": "nonsense"}}, {"files": "absent.jsonl"}]}
        )


def test_a_wrong_map_names_the_column_and_the_nearest(prepare: Prepare, jsonl: Any) -> None:
    jsonl(labelled(40))
    with pytest.raises(DataError, match=r"there is no column 'txt'(.|\n)*did you mean 'text'"):
        prepare(one(map={"user": "txt", "label": "label"}))
    with pytest.raises(DataError, match=r"there is no column 'customer'"):
        prepare({**one(), "split": {"group_by": "customer"}})
    with pytest.raises(DataError, match="stratify: label needs labels, and this task is chat"):
        prepare({**one(), "split": {"stratify": "label"}})
    jsonl([{"text": f"text {i}", "label": str(i)} for i in range(40)])
    with pytest.raises(DataError, match="stratify: label needs labels, and this task is regress"):
        prepare({**one(), "split": {"stratify": "label"}}, {"kind": "regress"})


def test_groups_stay_together_and_what_would_leak_is_on_record(prepare: Prepare, jsonl: Any) -> None:
    given = [{"text": f"text {i}", "label": "ab"[i % 2], "customer_id": i // 4} for i in range(200)]
    given += [{"text": "shared by all", "label": "a", "customer_id": i} for i in range(50)]
    jsonl(given)
    done = prepare({**one(), "split": {"group_by": "customer_id", "validation": 0.2, "test": 0.2}}, CLASSIFY)
    sides: dict[str, set[str]] = {}
    for row in done.rows():
        sides.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in sides.values())
    assert {row["split"] for row in done.rows() if row["messages"][1]["content"] == "shared by all"} == {
        "test"
    }
    assert done.rules[-1]["rule"] == "split"
    assert done.rules[-1]["removed"] == len(done.removed()) > 0
    assert {row["reason"] for row in done.removed()} == {
        "the same input is in the test split, in another group"
    }


def test_warnings_and_figures_are_events(prepare: Prepare, jsonl: Any) -> None:
    jsonl([*labelled(40), {"text": "rare", "label": "rare"}])
    done = prepare(
        {**one(), "rules": RULES}, {**CLASSIFY, "labels": ["billing", "login", "other", "rare", "absent"]}
    )
    told = [event.data["message"] for event in done.events("warning")]
    assert "the label 'absent' of task.labels occurs in no row" in told
    assert sum("the label 'rare' has no row in" in message for message in told) == 2
    assert [event.data["rule"] for event in done.events("rule")] == [entry["rule"] for entry in done.rules]
    assert all(event.data["seconds"] >= 0 for event in done.events("rule"))
    assert [event.data["about"] for event in done.events("note")] == ["drop_empty", "length"]
    assert done.facts["task"]["labels"] == ["billing", "login", "other", "rare", "absent"]
    [layout] = done.events("layout")
    assert layout.data["layout"] == "labelled"


def test_an_interrupted_run_goes_on_from_what_it_left(tmp_path: Path, jsonl: Any) -> None:
    jsonl(labelled(90))
    spec = PrepareSpec.model_validate({"data": one()})
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    for checks in (0, 1):
        with pytest.raises(Interrupted):
            STAGE.function(
                spec, {}, out, scratch, FakeContext(tmp_path, root=tmp_path, stop_after_checks=checks)
            )
    STAGE.function(spec, {}, out, scratch, FakeContext(tmp_path, root=tmp_path))
    assert json.loads((out / "dataset.json").read_text())["counts"]["train"] > 0


def test_a_secret_of_a_url_is_never_written(prepare: Prepare, jsonl: Any) -> None:
    jsonl(labelled(40), "s3cret.jsonl")
    done = prepare(one("${NAME}.jsonl"), environ={"NAME": "s3cret"})
    assert {row["source"] for row in done.rows()} == {"${NAME}.jsonl"}
    assert all(row["origin"].startswith("${NAME}.jsonl:") for row in done.rows())
    assert all(b"s3cret" not in content for content in done.bytes().values())
    with pytest.raises(SpecError, match="NAME is not set"):
        prepare(one("${NAME}.jsonl"))


def test_every_row_is_found_again(prepare: Prepare, jsonl: Any) -> None:
    jsonl(labelled(90))
    done = prepare({**one(), "rules": RULES}, CLASSIFY)
    listed = list(rows(done.out))
    assert len(listed) == sum(done.facts["counts"].values())
    assert [row["id"] for row in rows(done.out, "test")] == [row["id"] for row in done.split("test")]
    found = find_row(done.out, listed[0]["id"])
    assert found is not None
    assert (found["split"], found["removed"], found["origin"]) == ("train", None, listed[0]["origin"])
    gone = next(row for row in done.removed() if row["rule"] == "deduplicate")
    found = find_row(done.out, gone["id"])
    assert found is not None
    assert (found["split"], found["removed"]["rule"], found["origin"]) == (
        None,
        "deduplicate",
        gone["origin"],
    )
    assert find_row(done.out, "0" * 32) is None


def test_a_full_disk_is_told_with_the_remedy(
    prepare: Prepare, jsonl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(spool: local.Spool, batch: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    jsonl(labelled(40))
    monkeypatch.setattr(local.Spool, "write", full)
    with pytest.raises(StoreError, match=r"cannot be written: .*No space left on device(.|\n)*Make room"):
        prepare(one())


@pytest.mark.mount
def test_a_really_full_disk_is_told_too(tmp_path: Path, jsonl: Any) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], capture_output=True, check=False
    ).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        jsonl([{"text": random.Random(i).randbytes(500).hex()} for i in range(2000)])
        out = tmp_path / "out"
        out.mkdir()
        spec = PrepareSpec.model_validate({"data": one()})
        with pytest.raises(StoreError, match=r"cannot be written(.|\n)*Make room"):
            STAGE.function(spec, {}, out, small, FakeContext(tmp_path, root=tmp_path))
    finally:
        subprocess.run(["umount", small], check=True)


def test_columns_that_are_kept_stand_beside_the_rows_and_change_nothing_where_there_are_none(
    prepare: Prepare, jsonl: Any
) -> None:
    rows = [
        {"text": f"message number {n}", "label": "ab"[n % 2], "region": ["north", None, 7][n % 3]}
        for n in range(30)
    ]
    written = {"user": "text", "label": "label"}
    plain = prepare(one(jsonl(rows), map=written), CLASSIFY)
    kept = prepare(one(jsonl(rows), map={**written, "keep": ["region"]}), CLASSIFY)
    assert "kept" not in plain.split("train")[0]
    by_text = {row["text"]: row["region"] for row in rows}
    for side in ("train", "validation", "test"):
        assert [row["id"] for row in plain.split(side)] == [row["id"] for row in kept.split(side)]
        for row in kept.split(side):
            said = next(turn["content"] for turn in row["messages"] if turn["role"] == "user")
            value = by_text[said]
            assert row["kept"] == (None if value is None else json.dumps({"region": str(value)}))
    with pytest.raises(DataError, match="regoin"):
        prepare(one(jsonl(rows), map={**written, "keep": ["regoin"]}), CLASSIFY)


def test_where_rules_of_quantity_leave_nothing_they_are_named(prepare, jsonl):
    rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(60)]
    wish = {
        "sources": [{"files": jsonl(rows)}],
        "rules": {"quantity": [{"filter": {"keep": "len(user) > 100000"}}]},
    }
    with pytest.raises(DataError, match=r"no row is left in train: filter removed \d+, of the 60 rows"):
        prepare(wish)
