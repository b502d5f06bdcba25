"""A trial is compared only on rows that it has not learnt, and pruned only as it should be."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.app.line import Results, self_contained
from luthier.app.recipe import read_recipe
from luthier.app.searching import _believed
from luthier.app.study_opening import fingerprint
from luthier.app.trying import Judged, _refuse_learnt, _together, answering_of
from luthier.core.errors import DataError, StoreError
from luthier.training.search import SearchSpec


@dataclass
class Made:
    digest: str
    folder: Path


def _dataset(folder, digest, train, validation, labels=("a", "b")):
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({"task": {"kind": "classify", "labels": list(labels)}}))
    for name, ids in (("train", train), ("validation", validation)):
        pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), folder / f"{name}.parquet")
    return Made(digest, folder)


AT = SimpleNamespace(folder=lambda made: made.folder)


def test_a_trial_that_would_learn_what_it_is_asked_is_refused_with_the_number(tmp_path):
    yard = _dataset(tmp_path / "yard", "y", ["1", "2"], ["3", "4"])
    _refuse_learnt(AT, yard, Results(dataset=yard))
    other = _dataset(tmp_path / "other", "o", ["1"], ["3"])  # rules took rows away, and moved none
    _refuse_learnt(AT, yard, Results(dataset=other))
    moved = _dataset(tmp_path / "moved", "m", ["1", "3"], ["2", "4"])
    with pytest.raises(DataError, match="1 of the 2 validation rows") as error:
        _refuse_learnt(AT, yard, Results(dataset=moved))
    assert "group_by" in error.value.remedy
    renamed = _dataset(tmp_path / "renamed", "r", ["1"], ["3"], labels=("a", "c"))
    with pytest.raises(DataError, match="other labels"):
        _refuse_learnt(AT, yard, Results(dataset=renamed))


def test_folds_are_taken_together_by_their_mean():
    spec = SearchSpec.model_validate({"over": {"train.seed": [1, 2]}, "folds": 2})
    recipe = SimpleNamespace(evaluate=SimpleNamespace(confidence=0.95))
    one = Judged(0.6, [0.5, 0.7] * 50, 10, 100.0, "m1")
    other = Judged(0.8, [0.7, 0.9] * 50, 12, 300.0, "m2")
    found = _together([one, other], spec, recipe)
    assert found["value"] == pytest.approx(0.7)
    assert found["work"] == pytest.approx(200.0)
    assert found["value_K"] == (0.6, 0.8)
    assert found["value_R"][:2] == pytest.approx((0.6, 0.8))
    assert found["low"] <= 0.7 <= found["high"]
    assert found["model"] == "m1"


def test_a_setting_from_a_shared_database_is_believed_only_where_the_recipe_could_have_it():
    spec = SearchSpec.model_validate(
        {
            "over": {"train.seed": {"low": 1, "high": 9}},
            "techniques": {"a": {"set": {"train.epochs": 1}}, "b": {}},
        }
    )
    assert _believed({}, None, spec) == {}
    good = {"train.epochs": 1, "train.seed": 4}
    assert _believed(good, "a", spec) == good
    for bad, technique in (
        ({"train.epochs": 2, "train.seed": 4}, "a"),
        ({"train.seed": 10}, "b"),
        ({"train.seed": 4}, "c"),
        ({"train.seed": 4}, None),
        ({"base": "s3://elsewhere"}, "b"),
    ):
        with pytest.raises(StoreError, match="does not allow"):
            _believed(bad, technique, spec)


def _recipe(folder, kind, **post):
    data = {"sources": [{"files": "rows.jsonl", "map": {"user": "text", "assistant": "answer"}}]}
    written = {"name": "n", "base": "tiny", "task": {"kind": kind}, "data": data, "postprocess": post}
    (folder / "recipe.yaml").write_text(json.dumps(written))
    return read_recipe(folder / "recipe.yaml")


def test_answers_of_trials_go_the_way_that_they_will_go_when_served(tmp_path):
    assert answering_of(_recipe(tmp_path, "classify")) is None
    assert answering_of(_recipe(tmp_path, "chat", fallback={"to": "other"}, export=["merged"])) is None
    free = answering_of(_recipe(tmp_path, "classify", constrain=None))
    assert free is not None and free.constrain is None
    (tmp_path / "answer.json").write_text('{"type": "object"}')
    held = answering_of(_recipe(tmp_path, "chat", constrain={"json_schema": "answer.json"}))
    assert held.held.json_schema == {"type": "object"}


def test_another_way_of_answering_is_another_search(tmp_path):
    def mark(**post):
        wish = _recipe(tmp_path, "chat", **post)
        recipe = self_contained(wish).model_copy(
            update={"search": SearchSpec.model_validate({"over": {"train.seed": [1, 2]}})}
        )
        return fingerprint(recipe)["postprocess"]

    (tmp_path / "answer.json").write_text('{"type": "object"}')
    before = mark(constrain={"json_schema": "answer.json"})
    (tmp_path / "answer.json").write_text('{"type": "array"}')
    assert mark(constrain={"json_schema": "answer.json"}) != before
    assert mark() == mark(export=["merged"], calibrate=None)
