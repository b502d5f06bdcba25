"""Looks, one after the other, as cron would."""

import json

import numpy as np
import pytest

from luthier.monitoring import look as looking
from luthier.monitoring import reference as references
from luthier.monitoring import tested
from luthier.monitoring.spec import DAY_S, DriftSpec


def days(reference, spec, each_day, state=None):
    """Look at windows of a day each; `each_day` are lists of rows."""
    state = state or looking.begun(reference, "r" * 64, spec, 0.0, 0)
    found = []
    for rows in each_day:
        found.append(looking.look(state, reference, spec, state.until_s, state.until_s + DAY_S, rows))
        state = looking.State.from_plain(json.loads(json.dumps(found[-1].state.plain())))
    return found


def test_quiet_days_and_then_another_topic(reference, drift, make_rows, other_words):
    quiet = [make_rows(60, 100 + n) for n in range(4)]
    new = [[*make_rows(30, 200 + n), *make_rows(30, 300 + n, words=other_words)] for n in range(3)]
    found = days(reference, drift, [*quiet, *new])
    assert not any(one.alarms for one in found[:4])
    alarms = [alarm for one in found for alarm in one.alarms]
    assert [alarm.group for alarm in alarms] == ["content"], "told once"
    assert {"unknown", "unlike"} & set(alarms[0].views)
    assert all(name.split("-")[0] in ("r300", "r301") for name in alarms[0].shown[:5]), (
        "the new ones are to blame"
    )
    assert found[-1].state.open == (alarms[0],) or found[-1].state.open[0].id == alarms[0].id


def test_an_episode_ends_when_it_is_quiet_again_and_the_next_is_told(
    reference, drift, make_rows, other_words
):
    strange = lambda seed: make_rows(60, seed, words=other_words)  # noqa: E731
    quiet = [make_rows(60, 400 + n) for n in range(4)]
    found = days(reference, drift, [strange(1), *quiet, strange(2)])
    assert [bool(one.alarms) for one in found] == [True, False, False, False, False, True]
    assert sum(bool(one.ended) for one in found[1:5]) == 1 and not found[4].state.open


def test_a_label_mix_that_changes_is_seen_in_the_answers(reference, drift, make_rows):
    found = days(reference, drift, [make_rows(150, 500 + n, mix=0.15) for n in range(2)])
    groups = {alarm.group for one in found for alarm in one.alarms}
    assert "answers" in groups


def test_less_sure_answers(reference, make_rows):
    spec = DriftSpec(views=["confidence"])
    [found] = days(reference, spec, [make_rows(100, 600, confidence=0.5)])
    assert [alarm.views for alarm in found.alarms] == [("confidence",)]


def test_judged_answers_that_are_worse_and_better(reference, drift, make_rows):
    state = looking.begun(reference, "r" * 64, drift, 0.0, 0)
    worse = looking.look(state, reference, drift, 0.0, DAY_S, [], make_rows(80, 700, right=0.4), 80)
    assert [alarm.group for alarm in worse.alarms] == ["quality"] and worse.state.judgements == 80
    assert (
        worse.right == pytest.approx(0.4, abs=0.15)
        and looking.look(state, reference, drift, 0.0, DAY_S, []).right is None
    )
    better = looking.look(state, reference, drift, 0.0, DAY_S, [], make_rows(80, 701, right=1.0), 80)
    assert not better.alarms
    asked = looking.look(state, reference, drift, 0.0, DAY_S, make_rows(40, 702)).by_view
    both = looking.look(
        state, reference, drift, 0.0, DAY_S, make_rows(40, 702), make_rows(900, 701, right=1.0), 900
    )
    assert {**both.by_view, "right": 0} == {**asked, "right": 0}, "praise takes nothing from the other views"


def test_the_same_look_twice_is_the_same(reference, drift, make_rows):
    state = looking.begun(reference, "r" * 64, drift, 0.0, 0)
    rows = make_rows(50, 800)
    once, twice = (looking.look(state, reference, drift, 0.0, DAY_S, some, ()) for some in (rows, rows[::-1]))
    assert once.state.plain() == twice.state.plain()


def test_one_client_that_repeats_itself_counts_once(reference, drift, make_rows):
    rows = make_rows(1, 900)
    many = [type(rows[0])(f"x{n}", rows[0].asked, "billing", 0.9, False, None, float(n)) for n in range(500)]
    [found] = days(reference, drift, [many])
    assert (found.rows, found.repeated) == (1, 499) and not found.alarms


def test_an_empty_window(reference, drift):
    [found] = days(reference, drift, [[]])
    assert found.rows == 0 and not found.alarms


def test_the_reference_is_read_as_it_was_written(reference, tmp_path, make_rows):
    references.write(reference, tmp_path)
    again = references.read(tmp_path)
    rows = make_rows(40, 5)
    views = reference.views()
    one, other = (r.binned(r.fit.measure(rows), views) for r in (reference, again))
    assert (one == other).all() and all((reference.counts(v) == again.counts(v)).all() for v in views)
    assert not any(path.read_bytes()[:2] == b"\x80\x04" for path in tmp_path.iterdir()), "no pickle"


def test_views_that_nothing_is_known_of_are_not_watched(make_rows):
    from dataclasses import replace

    bare = [
        replace(row, answer=None, probability=None, refused=None, right=None) for row in make_rows(200, 1)
    ]
    made = references.build(
        references.Material(bare[:100], bare[100:], None), references.ReferenceSpec(near=50), {}
    )
    assert made.views() == ("length", "unknown", "unlike", "topic", "language", "private", "injection")


def test_a_view_that_is_wanted_and_not_there_is_told(reference):
    from luthier.core.errors import DataError

    with pytest.raises(DataError, match="says nothing of answer_length"):
        reference.views(["length", "answer_length"])
    assert reference.views(["right", "length"]) == ("length", "right")


def test_large_windows_are_sampled_by_ids(make_rows):
    from luthier.monitoring.rows import sampled

    rows = make_rows(60, 3)
    some, there = sampled(iter(rows), 20)
    again, _ = sampled(iter(rows[::-1]), 20)
    assert there == 60 and len(some) == 20 and some == again and some == sorted(some, key=lambda r: r.time_s)


def test_too_few_rows_are_told(make_rows):
    from luthier.core.errors import DataError

    with pytest.raises(DataError, match="60 are the least"):
        references.build(
            references.Material(make_rows(20, 1), make_rows(20, 2), None), references.ReferenceSpec(), {}
        )


def test_the_table_of_one_window(reference, make_rows, other_words):
    window = reference.fit.measure([*make_rows(60, 1), *make_rows(60, 2, words=other_words)])
    table = {one.view: one for one in tested.views(reference, window, reference.views())}
    assert table["unknown"].differs and table["unlike"].differs and not table["private"].differs
    whole = tested.whole(reference, window)
    assert whole.mmd.p < 0.01 and whole.told_apart.low > 0.5
    quiet = tested.views(reference, reference.fit.measure(make_rows(120, 77)), reference.views())
    assert not any(one.differs for one in quiet)


def test_wilson_holds_the_share():
    low, high = tested.wilson(45, 50)
    assert low < 0.9 < high and np.isclose(tested.wilson(0, 10)[0], 0)
