"""Mixing and order: shares derived by hand, and laws over any sources."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.errors import SpecError
from luthier.training.batches import Order, epoch_order, steps_per_epoch
from luthier.training.mixing import Mixture, apportion, order_of, ranks, shares
from luthier.training.rows import Rows
from luthier.training.spec import MixSpec, TrainSpec
from luthier.training.tokenfile import Line, TokenFile


def rows_of(sizes: dict[str, int], shuffle=None) -> Rows:
    """Rows of several sources; row k of all is k % 7 + 2 tokens long."""
    lines = [
        Line(f"{k:04x}-{name}", name, name, 1.0, n, (n,), np.arange(n), np.ones(n), n - 1)
        for k, name in enumerate(name for name, size in sizes.items() for _ in range(size))
        for n in [k % 7 + 2]
    ]
    if shuffle is not None:
        shuffle.shuffle(lines)
    return Rows(TokenFile.of(iter(lines)))


def spec(**given) -> TrainSpec:
    return TrainSpec.model_validate({"batch": {"rows": 4}, **given})


sizes_of = st.dictionaries(st.sampled_from(["faq", "notes", "tickets"]), st.integers(1, 12), min_size=1)
mixes = st.one_of(
    st.just("by_size"),
    st.builds(lambda t: {"temperature": t}, st.sampled_from([1, 2, 5, 100])),
    st.builds(lambda *w: {"weights": w}, st.integers(1, 5), st.integers(0, 5), st.integers(0, 5)),
)


def of(mix, sizes):
    """Weights as drawn are a tuple: give them to the sources that are there."""
    if isinstance(mix, dict) and "weights" in mix:
        return {"weights": dict(zip(sizes, mix["weights"], strict=False))}
    return mix


# -- shares ---------------------------------------------------------------------------------------------------------


def test_shares_by_hand():
    sizes = {"a": 900, "b": 100}
    assert shares("by_size", sizes) is None
    # weights 3 : 1 in any unit
    assert shares(MixSpec(weights={"a": 30, "b": 10}), sizes) == [0.75, 0.25]
    # temperature 2: sqrt(900) : sqrt(100) = 30 : 10
    assert shares(MixSpec(temperature=2), sizes) == pytest.approx([0.75, 0.25])
    # temperature 1 is by size
    assert shares(MixSpec(temperature=1), sizes) == pytest.approx([0.9, 0.1])
    # a very large temperature: 900^0.001 : 100^0.001 = 1.00683 : 1.00462
    assert shares(MixSpec(temperature=1000), sizes) == pytest.approx([0.50055, 0.49945], abs=1e-5)


def test_whole_draws_by_hand():
    # 10 · (0.55, 0.25, 0.20) = 5.5, 2.5, 2.0: 9 are whole, the tie of the two halves goes to the first
    assert apportion(10, [0.55, 0.25, 0.2]) == [6, 2, 2]
    # 5 · 0.02 = 0.1 is none, but a wanted source is drawn; a share of 0 is not
    assert apportion(5, [0.98, 0.02, 0.0]) == [4, 1, 0]


@given(st.integers(1, 500), st.lists(st.floats(0.001, 1), min_size=1, max_size=6))
def test_draws_add_up_and_keep_to_the_shares(total, weights):
    share = [w / sum(weights) for w in weights]
    draws = apportion(total, share)
    assert sum(draws) == total
    if total >= 10 * len(share) and min(share) * total >= 1:
        assert all(abs(n - total * one) < 1 for n, one in zip(draws, share, strict=True))
    if total >= len(share):
        assert min(draws) >= 1


# -- order ----------------------------------------------------------------------------------------------------------


@given(sizes_of, st.integers(0, 3), st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_without_a_wish_the_order_is_the_plain_one(sizes, seed, epoch):
    rows = rows_of(sizes)
    mixture = order_of(spec(seed=seed), rows)
    assert mixture.epoch(epoch).tolist() == epoch_order(list(rows.names), seed, epoch)
    plain = Order(rows.names, seed, 4)
    for step in range(1, 2 * steps_per_epoch(len(rows), 4) + 1):
        assert mixture.step(step) == plain.step(step)


@given(st.lists(st.text(max_size=4), unique=True, max_size=30), st.text(max_size=3))
def test_ranks_are_those_of_sorting_in_python(names, salt):
    from hashlib import blake2b

    plain = sorted(
        range(len(names)), key=lambda i: blake2b((salt + names[i]).encode(), digest_size=16).digest()
    )
    assert ranks(names, salt).tolist() == plain


@given(sizes_of, mixes, st.sampled_from(["shuffled", "short_first", "sources"]), st.integers(0, 2))
@settings(deadline=None, max_examples=60)
def test_every_epoch_has_as_many_draws_as_rows_and_keeps_to_the_shares(sizes, mix, order, epoch):
    rows = rows_of(sizes)
    names = sorted(sizes, reverse=True)
    made = order_of(spec(mix=of(mix, sizes), order=names if order == "sources" else order), rows)
    drawn = made.epoch(epoch).tolist()
    assert len(drawn) == len(rows) == made.rows_per_epoch
    by_source = Counter(rows.groups[i] for i in drawn)
    assert [by_source[name] for name in made.sources] == list(made.draws)
    # No row is drawn a second time before every other of its source was: counts differ by two at most (an epoch may
    # begin and end within a pass).
    times = Counter(drawn)
    for name in sizes:
        counts = [times[i] for i in range(len(rows)) if rows.groups[i] == name]
        assert max(counts) - min(counts) <= 2
    if order == "sources":
        places = [names.index(rows.groups[i]) for i in drawn]
        assert places == sorted(places)
    if order == "short_first" and epoch == 0:
        lengths = [rows[i].tokens for i in drawn]
        assert lengths == sorted(lengths)


@given(sizes_of, mixes, st.integers(2, 6))
@settings(deadline=None, max_examples=30)
def test_over_many_epochs_every_row_of_a_source_is_drawn_equally_often(sizes, mix, epochs):
    rows = rows_of(sizes)
    made = order_of(spec(mix=of(mix, sizes)), rows)
    times = Counter(i for epoch in range(epochs) for i in made.epoch(epoch).tolist())
    for name in sizes:
        counts = [times[i] for i in range(len(rows)) if rows.groups[i] == name]
        assert max(counts) - min(counts) <= 1


@given(sizes_of, mixes, st.randoms(use_true_random=False), st.sampled_from(["shuffled", "short_first"]))
@settings(deadline=None, max_examples=25)
def test_the_order_does_not_depend_on_where_rows_stand(sizes, mix, rng, order):
    wish = spec(mix=of(mix, sizes), order=order)
    rows, others = rows_of(sizes), rows_of(sizes, rng)
    one, other = order_of(wish, rows), order_of(wish, others)
    for step in range(1, 2 * one.steps_per_epoch + 1):
        assert [rows.names[i] for i in one.step(step)] == [others.names[i] for i in other.step(step)]
    # Resuming asks for a late step at once.
    assert order_of(wish, rows).step(2 * one.steps_per_epoch) == one.step(2 * one.steps_per_epoch)


def test_a_source_drawn_more_than_it_has_repeats_in_another_order():
    rows = rows_of({"big": 30, "small": 10})
    made = order_of(spec(mix={"weights": {"big": 1, "small": 1}}), rows)
    assert made.draws == (20, 20)
    passes = [made._drawn(1, epoch) for epoch in (0, 1)]
    first, second, third = passes[0][:10], passes[0][10:], passes[1][:10]
    assert set(first) == set(second) == set(third) and len(set(first)) == 10
    assert len({tuple(one) for one in (first, second, third)}) == 3
    # The big one shows 20 rows, then the other 10, then 10 of a new pass.
    assert {*made._drawn(0, 0), *made._drawn(0, 1)[:10]} == set(range(30))


def test_seeds_and_epochs_differ():
    rows = rows_of({"a": 30, "b": 20})
    mix = {"temperature": 3}
    found = {
        tuple(order_of(spec(mix=mix, seed=seed), rows).epoch(epoch)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(found) == 4


def test_no_rows_no_steps():
    made = order_of(spec(), rows_of({}))
    assert (made.rows_per_epoch, made.steps_per_epoch) == (0, 0)


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_sources_are_checked_by_name():
    rows = rows_of({"tickets": 3, "faq": 3})
    with pytest.raises(
        SpecError,
        match=r"train.mix.weights names the source 'ticket', and no training row(.|\n)*did you mean 'tickets'",
    ):
        order_of(spec(mix={"weights": {"ticket": 1, "faq": 1}}), rows)
    with pytest.raises(
        SpecError, match=r"train.mix.weights says nothing of the source 'tickets'(.|\n)*0 leaves a source out"
    ):
        order_of(spec(mix={"weights": {"faq": 1}}), rows)
    with pytest.raises(SpecError, match=r"train.order says nothing of the source 'faq'"):
        order_of(spec(order=["tickets"]), rows)
    with pytest.raises(SpecError, match=r"train.order names the source 'faqs'(.|\n)*did you mean 'faq'"):
        order_of(spec(order=["tickets", "faqs"]), rows)


@pytest.mark.parametrize(
    ("mix", "told"),
    [
        ({}, "either"),
        ({"weights": {"a": 1}, "temperature": 2}, "either"),
        ({"weights": {"a": 0}}, "every weight is 0"),
        ({"weights": {"a": -1}}, "greater than or equal to 0"),
        ({"temperature": 0.5}, "greater than or equal to 1"),
    ],
)
def test_mixes_that_cannot_be_are_refused(mix, told):
    with pytest.raises(ValidationError, match=told):
        spec(mix=mix)


def test_a_mixture_is_an_order():
    assert {name for name in dir(Order) if not name.startswith("_")} <= set(dir(Mixture)) | {"names", "rows", "seed"}  # fmt: skip


# -- in a run ---------------------------------------------------------------------------------------------------------


def test_a_run_takes_each_source_by_its_share_and_writes_down_how_often(new_work, make_record):
    import pyarrow.parquet as pq

    rows = [make_record(i, source="faq" if i < 2 else "tickets") for i in range(8)]
    work = new_work("mixed", train=rows)
    wish = {"epochs": 1, "batch": {"rows": 4, "micro_tokens": 150}, "keep": "last"}
    work.run(**wish, mix={"weights": {"faq": 1, "tickets": 1}})
    seen = {line["id"]: line["seen"] for line in pq.read_table(work.out / "rows.parquet").to_pylist()}
    # 8 rows are 8 draws: 4 of faq, whose 2 rows come twice; 4 of the 6 tickets
    assert [seen[row["id"]] for row in rows[:2]] == [2, 2]
    assert sorted(seen[row["id"]] for row in rows[2:]) == [0, 0, 1, 1, 1, 1]
    assert len(work.told("step")) == 2
    work.run(**wish, order=["tickets", "faq"])
    last = work.told("step")[-1]
    assert set(last["groups"]) == {"faq", "tickets"}  # 6 tickets: 4 in the first step, 2 in the second
    assert "groups" not in work.told("step")[0]
    with pytest.raises(SpecError, match="says nothing of the source 'faq'"):
        work.run(**wish, mix={"weights": {"tickets": 1}})
    assert work.told("training") == []
