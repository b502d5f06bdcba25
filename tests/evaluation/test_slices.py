"""The test rows divided: what falls where, the metrics of a part, and which part is surely worse."""

import numpy as np
import pytest

from luthier.evaluation import predictions, slices
from luthier.evaluation.questions import Question
from luthier.evaluation.report import uneven
from luthier.evaluation.spec import ColumnSpec, EvaluateSpec

TASK = {"kind": "classify", "labels": ["a", "b"]}
SPEC = EvaluateSpec(resamples=500)


def _question(n, text="word", source="mail"):
    return Question(f"{n:03}", ({"role": "user", "content": text},), "a", source)


def _table(rows):
    """rows: (source, tuned is right, base is right)"""
    return predictions.table(
        {
            "id": f"{n:03}",
            "model": model,
            "reference": "a",
            "prediction": "a" if right else "b",
            "correct": right,
            "slices": [{"by": "source", "value": source}],
        }
        for n, (source, *said) in enumerate(rows)
        for model, right in zip(("tuned", "base"), said, strict=True)
    )


def test_lengths_fall_into_three_parts_of_equal_size():
    questions = [_question(n, "x" * (n + 1)) for n in range(60)]
    told = [value for [(by, value)] in slices.assign(questions, ["length"]).values()]
    # edges at the 20th and 40th length
    assert [told.count(name) for name in dict.fromkeys(told)] == [20, 20, 20]
    assert told[0] == "up to 20 characters"
    assert told[59] == "over 40 characters"


def test_languages_are_told_by_name():
    texts = [
        "the parcel is not there and I want to know why",
        "das Paket ist nicht da und ich will wissen warum",
    ]
    found = slices.assign([_question(0, texts[0]), _question(1, texts[1]), _question(2, "42")], ["language"])
    assert [value for [(_, value)] in found.values()] == ["English", "German", "unclear"]


def test_what_divides_nothing_is_left_out_unless_it_is_asked_for():
    questions = [_question(n) for n in range(40)]
    assert set(slices.assign(questions, None).values().__iter__().__next__()) == set()
    assert slices.assign(questions, ["source"])["000"] == [("source", "mail")]
    assert slices.assign(questions, [])["000"] == []


def test_a_part_has_the_metrics_of_its_rows_alone():
    table = _table([("mail", True, False)] * 3 + [("mail", False, False)] + [("chat", True, True)] * 2)
    mail, chat = slices.build(table, TASK, SPEC)
    assert (mail["by"], mail["value"], mail["rows"], chat["rows"]) == ("source", "mail", 4, 2)
    assert mail["systems"]["tuned"]["accuracy"] == 3 / 4
    assert mail["systems"]["base"]["accuracy"] == 0
    assert chat["systems"]["tuned"]["accuracy"] == 1
    assert mail["p"] is None  # fewer than 20 rows
    assert slices.worst([mail, chat]) is None


def test_a_part_that_is_worse_is_named_and_one_that_was_unlucky_is_not():
    generator = np.random.default_rng(0)
    good = [("mail", bool(generator.random() < 0.9), False) for _ in range(120)]
    bad = [("chat", bool(generator.random() < 0.5), False) for _ in range(60)]
    found = slices.build(_table(good + bad), TASK, SPEC)
    assert slices.worst(found)["value"] == "chat"
    assert slices.worst(found)["p_corrected"] < 0.01
    [sentence] = uneven(found)
    assert "source is 'chat'" in sentence
    alike = [(source, bool(generator.random() < 0.8), False) for source in ("mail", "chat") * 60]
    assert uneven(slices.build(_table(alike), TASK, SPEC)) == []


def test_one_false_alarm_in_twenty_over_all_parts():
    """Five parts of 30 rows that do not differ, 200 times: at least one is called worse in at most about 5 % of them."""
    generator, alarms = np.random.default_rng(1), 0
    spec = EvaluateSpec(resamples=200, metrics=["accuracy"])
    for _ in range(200):
        rows = [(f"s{n % 5}", bool(right), False) for n, right in enumerate(generator.random(150) < 0.7)]
        found = slices.build(_table(rows), TASK, spec)
        alarms += min(one["p_corrected"] for one in found) <= 0.05
    assert alarms <= 10 + 4 * np.sqrt(200 * 0.05 * 0.95)  # 22


def test_unknown_ways_to_divide_are_refused():
    with pytest.raises(ValueError, match="source"):
        EvaluateSpec(slices=["weather"])


def _kept(n, **values):
    return Question(f"{n:03}", ({"role": "user", "content": "word"},), "a", "mail", kept=values)


def test_a_column_divides_by_its_most_frequent_values_and_the_rest_together():
    # value k stands in 20 - k rows, so the last of 15 is the rarest
    rows = [_kept(0)]
    for k in range(15):
        rows += [_kept(len(rows) + n, region=f"r{k:02}") for n in range(20 - k)]
    told = [value for [(_, value)] in slices.assign(rows, [ColumnSpec(column="region")]).values()]
    sizes = {value: told.count(value) for value in told}
    assert len(sizes) == slices.MOST_VALUES
    assert sizes["r00"] == 20
    # eleven are parts of their own; of the others 9 + 8 + 7 + 6 rows, and one without a value
    assert sizes[slices.OTHER] == 9 + 8 + 7 + 6 + 1
    few = slices.assign([_kept(0), _kept(1, region="x")], [ColumnSpec(column="region")])
    assert few == {"000": [("region", slices.NONE)], "001": [("region", "x")]}


def test_kept_columns_divide_without_being_asked_for_where_they_divide_at_all():
    rows = [_kept(n, region="north" if n % 2 else "south", country="x") for n in range(60)]
    found = slices.assign(rows, None)
    assert found["001"] == [("region", "north")]
    assert slices.assign([_kept(0, language="x")], [ColumnSpec(column="language")])["000"] == [
        ("language (column)", "x")
    ]
