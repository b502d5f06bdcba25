"""When a new run is due, and whether what it gave is no worse."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from luthier.evaluation.predictions import Answers
from luthier.monitoring.retrain import Facts, Old, due, parts, words
from luthier.monitoring.spec import MonitorSpec, RetrainSpec

DAY = 86_400.0


@pytest.mark.parametrize(
    ("wish", "facts", "why", "waits"),
    [
        ({"on": "drift"}, Facts(9 * DAY, 0, 200, []), None, "nothing makes it due"),
        ({"on": "drift"}, Facts(9 * DAY, 0, 200, ["content-1"]), "drift: content-1", None),
        ({"on": "drift"}, Facts(9 * DAY, 0, 20, ["content-1"]), None, "20 of 100"),
        ({"on": "drift"}, Facts(9 * DAY, 8.5 * DAY, 200, ["content-1"]), None, "less than"),
        ({"on": ["schedule"], "every": "5 days"}, Facts(9 * DAY, 0, 200, []), "schedule", None),
        ({"on": ["schedule"], "every": "5 days"}, Facts(4 * DAY, 0, 200, []), None, "nothing"),
        ({"on": "labels"}, Facts(9 * DAY, 0, 99, []), None, "99 of 100"),
        ({"on": ["labels", "drift"]}, Facts(9 * DAY, 0, 100, ["a"]), "drift: a; 100 judged", None),
    ],
)
def test_due(wish, facts, why, waits):
    found = due(RetrainSpec.model_validate(wish), facts)
    assert (
        (found.why is None) == (why is None)
        and (why or "") in (found.why or "")
        and (waits or "") in (found.waits or "")
    )


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"on": "schedule"}, "needs every"),
        ({"on": "drift", "every": "3 days"}, "not there"),
        ({"on": "drfit"}, "did you mean 'drift'"),
        ({"on": "drift", "replay": 0}, "0.05 to 0.95"),
        ({"on": []}, "at least 1"),
    ],
)
def test_wishes_that_cannot_be(wish, message):
    with pytest.raises(ValidationError, match=message):
        RetrainSpec.model_validate(wish)
    with pytest.raises(ValidationError, match="two windows"):
        MonitorSpec.model_validate({"keep_for": "1 day"})


def test_the_recipe_changes_once_however_often():
    recipe = {
        "data": {"sources": [{"files": "a.jsonl"}], "split": {"group_by": "customer"}},
        "evaluate": {"against": ["base", "production"], "gate": {"macro_f1": {"at_least": 0.8}}},
    }
    old = Old(recipe, "classify", "sft", "desk", "desk@3")
    told = dict(
        one.split("=", 1)
        for one in words(old, RetrainSpec(on="drift", replay=0.5), until="2026-01-01", labels=40)
    )
    sources = json.loads(told["data.sources"])
    assert sources[1]["map"] == {"messages": "messages", "rating": "rating", "group": "id"}
    assert json.loads(told["data.rules.quantity"]) == [{"replay": {"new": ["feedback"], "at_most": 40}}]
    assert json.loads(told["evaluate.gate.macro_f1"]) == {
        "at_least": 0.8,
        "not_worse_than": "production",
        "by": 0.02,
    }
    assert json.loads(told["evaluate.against"]) == ["base", {"production": "desk@3"}]
    recipe["evaluate"]["against"] = json.loads(told["evaluate.against"])
    recipe["data"] |= {"sources": sources, "rules": {"quantity": json.loads(told["data.rules.quantity"])}}
    again = dict(
        one.split("=", 1) for one in words(old, RetrainSpec(on="drift"), until="2026-02-01", labels=40)
    )
    assert json.loads(again["evaluate.against"]) == ["base", {"production": "desk@3"}]
    assert len(json.loads(again["data.sources"])) == 2 and len(json.loads(again["data.rules.quantity"])) == 1


def test_pairs_for_methods_of_pairs():
    old = Old({"data": {"sources": [{"files": "a.jsonl"}]}}, "chat", "dpo", "desk", "desk@3")
    told = dict(
        one.split("=", 1) for one in words(old, RetrainSpec(on="drift"), until="2026-01-01", labels=40)
    )
    assert json.loads(told["data.sources"])[1]["traffic"] == {
        "name": "desk",
        "until": "2026-01-01",
        "as": "pairs",
    }
    assert json.loads(told["evaluate.against"]) == ["base", {"production": "desk@3"}]


def answers(right):
    ids = tuple(f"r{n:03d}" for n in range(len(right)))
    said = tuple("a" if one else "b" for one in right)
    none = np.full(len(ids), np.nan)
    return Answers(ids, ("a",) * len(ids), said, none, np.zeros(len(ids), np.int64), None, ((),) * len(ids))


def test_a_model_that_forgets_what_was_old_does_not_pass():
    generator = np.random.default_rng(0)
    source = {f"r{n:03d}": "feedback" if n >= 200 else "a.jsonl" for n in range(300)}
    production = answers([*(generator.random(200) < 0.9), *(generator.random(100) < 0.5)])
    better = answers([*(one == "a" for one in production.predictions[:200]), *([True] * 100)])
    forgot = answers([*(generator.random(200) < 0.6), *([True] * 100)])
    task = {"kind": "classify", "labels": ["a", "b"]}
    spec = RetrainSpec(on="drift")
    assert [one.passed for one in parts(better, production, source, task, spec)] == [True, True, True]
    _, old, new = parts(forgot, production, source, task, spec)
    assert not old.passed and "may be worse" in old.reason and new.passed and new.difference > 0.4
    few = parts(better, production, dict.fromkeys(source, "a.jsonl"), task, spec)
    assert few[2].rows == 0 and few[2].passed and "no new test rows" in few[2].reason


def test_few_rows_of_a_part_do_not_let_a_worse_model_through():
    """19 old rows and 19 new ones are too few to tell, each; of all 38 the new model has half wrong that were right. The recipe's gate
    may compare with the base alone (better_than: base), so nobody else would have said so."""
    source = {f"r{n:03d}": "feedback" if n >= 19 else "a.jsonl" for n in range(38)}
    production, worse = answers([True] * 38), answers([n % 2 == 0 for n in range(38)])
    task, spec = {"kind": "classify", "labels": ["a", "b"]}, RetrainSpec(on="drift")
    told = {one.part: one for one in parts(worse, production, source, task, spec)}
    assert told["old"].passed and told["new"].passed and "too few" in told["old"].reason
    assert not told["all"].passed and told["all"].difference == -0.5
    nothing = parts(worse, answers([]), source, task, spec)
    assert not nothing[0].passed and "no all" not in nothing[0].reason


def test_a_resumed_run_reads_up_to_the_same_lines():
    old = Old({"data": {"sources": [{"files": "a.jsonl"}]}}, "chat", "sft", "desk", "desk@3")
    through = {"exchanges": 7, "judgements": 3}
    told = words(old, RetrainSpec(on="drift"), until="2026-01-01", labels=40, through=through)
    sources = json.loads(next(one for one in told if one.startswith("data.sources=")).partition("=")[2])
    assert sources[1]["traffic"]["through"] == through
