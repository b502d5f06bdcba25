from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from luthier.training.batches import Order, epoch_order, pack, steps_per_epoch, total_steps

names = st.lists(st.text("abcdef0123", min_size=1, max_size=6), min_size=1, max_size=40, unique=True)


@given(names, st.randoms(), st.integers(0, 3), st.integers(0, 3))
def test_an_epochs_order_does_not_depend_on_where_rows_stand(names, rng, seed, epoch):
    shuffled = rng.sample(names, len(names))
    one = [names[i] for i in epoch_order(names, seed, epoch)]
    assert one == [shuffled[i] for i in epoch_order(shuffled, seed, epoch)]


@given(names, st.integers(0, 3))
def test_leaving_a_row_out_equals_never_having_had_it(names, seed):
    whole = [names[i] for i in epoch_order(names, seed, 0)]
    for gone in names:
        rest = [name for name in names if name != gone]
        assert [rest[i] for i in epoch_order(rest, seed, 0)] == [name for name in whole if name != gone]


def test_epochs_and_seeds_differ():
    names = [str(i) for i in range(50)]
    orders = [epoch_order(names, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@given(names, st.integers(1, 7), st.integers(1, 3))
def test_every_epoch_takes_each_row_once(names, rows, epochs):
    order = Order(names, 0, rows)
    per_epoch = steps_per_epoch(len(names), rows)
    taken = Counter(i for step in range(1, epochs * per_epoch + 1) for i in order.step(step))
    assert taken == dict.fromkeys(range(len(names)), epochs)
    assert total_steps(len(names), rows, epochs, None) == epochs * per_epoch
    # A step of a later epoch can be asked for at once: resuming does not walk through earlier ones.
    assert Order(names, 0, rows).step(epochs * per_epoch) == order.step(epochs * per_epoch)


def test_total_steps_of_a_fraction():
    # 100 rows of 16: 7 steps an epoch; 0.5 epochs = 3.5 -> 4; 1.2 = 8.4 -> 9.
    assert [total_steps(100, 16, e, None) for e in (0.5, 1, 1.2, 0.001)] == [4, 7, 9, 1]
    assert total_steps(480, 16, 0.1, None) == 3  # 0.1 · 30 is a little more than 3 in binary


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 600))
def test_packing_holds_every_row_once_and_the_budget(tokens, budget):
    bins = pack(tokens, budget)
    assert sorted(i for one in bins for i in one) == list(range(len(tokens)))
    for one in bins:
        assert sum(tokens[i] for i in one) <= budget or len(one) == 1
    # Best-fit leaves no two bins that could have been one: at most twice as many as the tokens need, and one.
    fitting = [t for t in tokens if t <= budget]
    assert len(bins) <= len(tokens) - len(fitting) + 2 * sum(fitting) // budget + 1


def test_an_even_cut_is_preferred():
    # Best-fit decreasing alone would give 1000 + 400; two bins are needed, and 700 + 700 has the lower peak.
    assert [sum([600, 400, 300, 100][i] for i in one) for one in pack([600, 400, 300, 100], 1000)] == [
        700,
        700,
    ]
