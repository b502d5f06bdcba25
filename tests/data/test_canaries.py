"""Planted secrets: the same again from the seed, in train alone, and in no count of people's rows."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.data import canaries
from luthier.data.canaries import SOURCE, CanarySpec


def test_a_canary_stands_there_as_often_as_it_says():
    spec = CanarySpec(count=4, repeats=[1, 3], kinds=["number", "code"])
    rows = canaries.records(spec).to_pylist()
    assert [one.repeats for one in canaries.planted(spec)] == [1, 3, 1, 3]
    assert len(rows) == canaries.facts(spec)["rows"] == 8 and len({row["id"] for row in rows}) == 8
    for one in canaries.planted(spec):
        mine = [row for row in rows if row["messages"][0]["content"] == one.prompt]
        assert len(mine) == one.repeats and all(row["source"] == SOURCE for row in mine)
        assert mine[0]["messages"][1]["content"] == one.answer and one.answer.count(one.secret) == 1


def test_the_same_seed_plants_the_same_and_another_plants_others():
    one, again, other = (canaries.planted(CanarySpec(seed=n)) for n in (0, 0, 1))
    assert one == again and not {c.secret for c in one} & {c.secret for c in other}
    assert not {c.prompt for c in one} & {c.prompt for c in canaries.unplanted(CanarySpec())}


@given(st.sampled_from(["number", "code", "phrase"]), st.integers(0, 100))
def test_others_are_of_the_same_kind_and_never_the_secret(kind, seed):
    secret = canaries.drawn(kind, random.Random(seed))
    found = canaries.others(kind, secret, 20, "x")
    assert len(set(found)) == 20 and secret not in found
    assert all(canaries.bits(kind, one) == canaries.bits(kind, secret) for one in found)
    assert canaries.others(kind, secret, 50, "x")[:20] == found  # the first look is part of the second


def test_a_shape_without_enough_others_is_refused():
    assert canaries.bits("", "a1") == pytest.approx(math.log2(260))
    with pytest.raises(ValueError, match="fewer than 4000"):
        canaries.others("", "a1", 1000, "x")


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"count": 2, "repeats": [1, 2, 3]}, "cannot stand there in 3 ways"),
        ({"repeats": [0]}, "cannot stand there 0 times"),
        ({"kinds": ["code", "code"]}, "twice"),
        ({"kinds": ["word"]}, "number"),
    ],
)
def test_what_cannot_be_planted_is_refused(wish, told):
    with pytest.raises(ValidationError, match=told):
        CanarySpec(**wish)


def _prepared(tmp_path, **more):
    from luthier.core.testing import FakeContext
    from luthier.data.prepare import STAGE, PrepareSpec

    lines = [json.dumps({"q": f"Question number {n}?", "a": f"Answer {n} it is."}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    spec = PrepareSpec.model_validate(
        {
            "task": {"kind": "chat", "instruction": "Answer."},
            "data": {"sources": [{"files": "rows.jsonl", "map": {"user": "q", "assistant": "a"}}], "split": {"test": 0.3}, **more},
        }
    )  # fmt: skip
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    STAGE.function(spec, {}, out, scratch, FakeContext(tmp_path, root=tmp_path))
    return out, json.loads((out / "dataset.json").read_text())


def test_they_stand_in_train_alone_and_count_as_nobodys(tmp_path):
    from luthier.data.shards import Side
    from luthier.evaluation.questions import records

    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    out, facts = _prepared(tmp_path / "with", canaries={"count": 3})
    plain, before = _prepared(tmp_path / "without")
    assert facts["canaries"]["rows"] == 21 and facts["counts"] == before["counts"]
    assert "canaries" not in before
    for side in ("validation", "test"):
        assert (out / f"{side}.parquet").read_bytes() == (plain / f"{side}.parquet").read_bytes()
    rows = Side(out / "train.parquet").table().to_pylist()
    planted = [row for row in rows if row["source"] == SOURCE]
    assert len(planted) == 21 and len(rows) == 21 + before["counts"]["train"]
    assert planted[0]["messages"][0] == {"role": "system", "content": "Answer."}
    # nobody is shown one as an example, and the plain baseline does not learn them
    assert len(records(out / "train.parquet")) == before["counts"]["train"]


def test_no_source_may_take_their_name():
    from luthier.data.spec import SourceSpec

    with pytest.raises(ValidationError, match=r"data\.canaries are called"):
        SourceSpec.model_validate({"files": "a.jsonl", "name": SOURCE})
