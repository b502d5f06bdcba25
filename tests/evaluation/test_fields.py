"""Fields of structured answers: against scikit-learn, by brute force, and answers that mean harm."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.evaluation import compare, fields, predictions, tasks
from luthier.evaluation.spec import METRICS

pytest.importorskip("jsonschema")

LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b c"]) | st.floats(-1, 1)
OBJECTS = st.recursive(
    st.dictionaries(st.sampled_from("xyz"), LEAVES, max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from("xyz"), inner | LEAVES | st.lists(LEAVES, max_size=3), max_size=3
    ),
    max_leaves=6,
)
SCHEMA = {"type": "object"}
TASK = {"kind": "extract", "labels": None, "schema": SCHEMA}


def values(pairs, schema=SCHEMA):
    found = fields.statistics([a for a, _ in pairs], [b for _, b in pairs], schema)
    return compare.at_sample(found, len(pairs))


@given(st.lists(st.tuples(OBJECTS, OBJECTS), min_size=1, max_size=4), st.randoms())
def test_a_resample_is_measured_as_its_rows_written_out(pairs, rng):
    told = [(json.dumps(a), json.dumps(b)) for a, b in pairs]
    drawn = [rng.randrange(len(told)) for _ in told]
    found = fields.statistics([a for a, _ in told], [b for _, b in told], SCHEMA)(np.array([drawn]))
    assert {name: value[0] for name, value in found.items()} == pytest.approx(
        values([told[i] for i in drawn])
    )


FLAT = st.dictionaries(st.sampled_from("xyz"), st.sampled_from([1, 2, "a"]), min_size=1)


@given(st.lists(st.tuples(FLAT, FLAT), min_size=1, max_size=6))
def test_micro_figures_are_those_of_scikit_learn_on_sets_flattened_by_hand(pairs):
    from sklearn.metrics import precision_recall_fscore_support

    told = sorted({(k, repr(v)) for pair in pairs for one in pair for k, v in one.items()})
    truth, said = (
        np.array([[one.get(k, ...) is not ... and repr(one[k]) == v for k, v in told] for one in side], int)
        for side in zip(*pairs, strict=True)
    )
    want = precision_recall_fscore_support(truth, said, average="micro", zero_division=0)[:3]
    found = values([(json.dumps(a), json.dumps(b)) for a, b in pairs])
    assert [found[f"field_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(list(want))


@given(OBJECTS, OBJECTS, st.randoms())
def test_the_order_of_keys_changes_nothing_and_an_object_equals_itself(truth, said, rng):
    def shuffled(value):
        if isinstance(value, dict):
            return {key: shuffled(value[key]) for key in rng.sample(sorted(value), len(value))}
        return [shuffled(one) for one in value] if isinstance(value, list) else value

    a, b = json.dumps(truth), json.dumps(said)
    one, other = (
        fields.compared(a, b),
        fields.compared(json.dumps(shuffled(truth)), json.dumps(shuffled(said), indent=1)),
    )
    assert (one.truth, one.said, one.exact) == (other.truth, other.said, other.exact)
    assert fields.compared(a, a).f1 == 1.0 and fields.compared(a, a).exact
    assert one.exact <= (one.f1 == 1.0)
    assert one.f1 == fields.compared(b, a).f1


@pytest.mark.parametrize(
    ("truth", "said", "hits", "exact"),
    [
        ({"n": 1}, {"n": 1.0}, 1, True),
        ({"n": 1}, {"n": True}, 0, False),
        ({"n": 1}, {"n": "1"}, 0, False),
        ({"s": "a  b"}, {"s": " a b\n"}, 1, True),
        ({"l": ["a", "b", "b"]}, {"l": ["b", "a"]}, 2, False),
        ({"l": ["a", "b"]}, {"l": ["b", "a"]}, 2, False),  # as a multiset; as JSON it is another list
        ({"l": [{"a": 1, "b": 1}]}, {"l": [{"a": 1}, {"b": 1}]}, 2, False),
        ({"l": []}, {"l": []}, 1, True),
        ({"x": None}, {}, 0, False),
        ({"a.b": 1}, {"a": {"b": 1}}, 0, False),
    ],
)
def test_what_counts_as_a_field(truth, said, hits, exact):
    found = fields.compared(json.dumps(truth), json.dumps(said))
    assert (found.hits, found.exact) == (hits, exact)


HOSTILE = [
    "[" * 100_000,
    '{"a":' * 20_000,
    '{"a": ' + "9" * 5_000 + "}",
    '{"a": 1, "a": 1}',
    '{"a": NaN}',
    '{"a": 1e999}',
    '{"a": "\\ud800"}',
    '{"a": "\ud800"}',
    "[" + ",".join(f'{{"a":{i}}}' for i in range(9_000)) + "]",
    "x" * 5_000_000,
    "",
    "```json\n{}\n```",
    "null",
]


def test_hostile_answers_score_nothing_and_take_no_time():
    truth = '{"a": 1}'
    began = time.process_time()
    for said in HOSTILE:
        found = values([(truth, said)], {"type": "object", "uniqueItems": True})
        assert (
            found["schema_valid"] == found["exact_object"] == found["field_f1"] == found["object_f1"] == 0.0
        )
    many = "[" + ",".join(f'{{"a":{i}}}' for i in range(9_000)) + "]"
    assert values([(truth, many)], {"uniqueItems": True})["schema_valid"] == 1.0
    assert time.process_time() - began < 10


def test_a_reference_that_is_no_json_is_told():
    with pytest.raises(DataError, match=r"the reference 'x' is not JSON"):
        fields.compared("x", "{}")


def test_the_task_tells_each_field_and_what_goes_wrong():
    rows = [
        ('{"city": "Ulm", "n": 1}', '{"city": "Ulm", "n": 2}'),
        ('{"city": "Bonn", "n": 1}', '{"city": "Bonn"}'),
        ('{"city": "Kiel", "n": 1}', "no idea"),
        ('{"city": "Jena", "n": 1}', '{"city": "Jena", "n": 1, "x": 0}'),
    ]
    part = tasks.of(TASK)
    lines = [_line(i, truth, said) for i, (truth, said) in enumerate(rows)]
    answers = predictions.by_system(pa.Table.from_pylist(lines, predictions.SCHEMA))["tuned"]
    found = part.summarise(answers)
    # fields right: 1 + 1 + 0 + 2 = 4; said: 2 + 1 + 0 + 3 = 6; true: 8
    assert found["metrics"]["field_precision"] == pytest.approx(4 / 6)
    assert found["metrics"]["field_recall"] == pytest.approx(4 / 8)
    assert found["metrics"]["valid_json"] == found["metrics"]["schema_valid"] == 0.75
    assert found["metrics"]["exact_object"] == 0.0
    # by row: 2*1/4, 2*1/3, 0, 2*2/5
    assert found["metrics"]["object_f1"] == pytest.approx((1 / 2 + 2 / 3 + 0 + 4 / 5) / 4)
    assert found["per_field"]["city"] == {
        "precision": 1.0,
        "recall": 0.75,
        "f1": pytest.approx(6 / 7),
        "support": 4,
    }
    assert found["per_field"]["x"]["support"] == 0 and list(found["per_field"])[-1] == "x"
    told = {(one["field"], one["how"]): one for one in found["wrong_fields"]}
    assert told["n", "other"]["examples"] == [{"id": "0", "reference": "1", "said": "2"}]
    assert told["n", "missing"]["rows"] == 1 and told["n", "missing"]["of"] == 4
    assert told["x", "made up"]["examples"][0]["reference"] == fields.NOTHING
    assert set(found["metrics"]) == {name for name, one in METRICS.items() if "extract" in one.kinds}
    assert [part.correct(*row) for row in rows] == [False] * 4
    assert part.each(answers).tolist() == pytest.approx([1 / 2, 2 / 3, 0, 4 / 5])


def _line(i, truth, said):
    plain = dict.fromkeys(predictions.SCHEMA.names)
    return plain | {"id": str(i), "model": "tuned", "reference": truth, "prediction": said}
