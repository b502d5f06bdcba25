"""The next step's rows are read while this one is computed, and are the same."""

import threading

import pytest

from luthier.training.ahead import Ahead


class Order:
    def step(self, step):
        return [step, step + 10]


class Slow:
    """Rows that say which thread has read them, and when they may."""

    def __init__(self):
        self.read, self.may = [], threading.Event()
        self.may.set()

    def __getitem__(self, i):
        self.may.wait(10)
        if i == 13:
            raise OSError("the disk is gone")
        self.read.append((i, threading.current_thread().name))
        return f"row {i}"


def test_one_step_ahead_and_no_further_than_the_last():
    rows = Slow()
    ahead = Ahead(rows, Order(), last=2)
    assert ahead.take(1) == ["row 1", "row 11"]
    begun = ahead._begun
    assert begun[0] == 2 and begun[1].result(10) == ["row 2", "row 12"]  # nobody has asked for it
    assert ahead.take(2) == ["row 2", "row 12"] and ahead._begun is None
    assert [i for i, _ in rows.read] == [1, 11, 2, 12]
    assert threading.current_thread().name not in {name for _, name in rows.read}
    ahead.close()
    ahead.close()


def test_a_step_that_was_not_expected_is_read_then():
    ahead = Ahead(Slow(), Order(), last=9)
    ahead.take(1)
    assert ahead.take(5) == ["row 5", "row 15"]
    ahead.close()


def test_what_reading_raises_comes_out_when_the_rows_are_taken():
    ahead = Ahead(Slow(), Order(), last=9)
    ahead.take(2)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.take(3)
    ahead.close()


def test_no_thread_outlives_a_run(work):
    before = threading.active_count()
    work.run(max_steps=2)
    assert threading.active_count() == before
    work.stop_after_checks = 3
    from luthier.core.errors import Interrupted

    with pytest.raises(Interrupted):
        work.run(epochs=3)
    assert threading.active_count() == before
