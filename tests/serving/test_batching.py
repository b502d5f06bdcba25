"""Continuous batching over a model that is nothing but its pages: what it says follows from every token that lies in them, so a page
that is lost, shared by mistake or written twice changes the answer."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from luthier.models.paged import Part
from luthier.serving.batching import AT_ONCE, Batch, Pages, Scoring, Writing, chosen
from luthier.serving.engine import Cancelled, Unavailable

WIDTH, END = 32, 31


def logits_after(ids: Sequence[int]) -> np.ndarray:
    told = np.random.default_rng(abs(hash(tuple(ids)))).normal(size=WIDTH).astype(np.float32) * 2
    told[END] -= 4
    return told


def logprobs_after(ids: Sequence[int]) -> np.ndarray:
    told = logits_after(ids).astype(np.float64)
    return told - math.log(np.exp(told).sum())


class PagesOnly:
    """`passes`: how many tokens each part had, pass by pass. `fail` raises once; `wait` holds passes up."""

    def __init__(self, page: int = 4, pages: int = 64) -> None:
        self.page, self.pages = page, pages
        self.held = [[-1] * page for _ in range(pages)]
        self.passes: list[list[int]] = []
        self.fail = False
        self.wait = threading.Event()
        self.wait.set()

    def step(self, parts: Sequence[Part]) -> list[np.ndarray]:
        self.wait.wait()
        if self.fail:
            self.fail = False
            raise RuntimeError("out of memory")
        self.passes.append([len(part.ids) for part in parts])
        for part in parts:
            for n, token in enumerate(part.ids, part.past):
                self.held[part.pages[n // self.page]][n % self.page] = token
        return [
            np.array([self._at(part, place) for place in part.places]).reshape(-1, WIDTH) for part in parts
        ]

    def _at(self, part: Part, place: int) -> np.ndarray:
        ids = [self.held[part.pages[n // self.page]][n % self.page] for n in range(part.past + place + 1)]
        assert -1 not in ids
        return logits_after(ids)

    def copy(self, page: int, to: int) -> None:
        self.held[to] = list(self.held[page])


@pytest.fixture
def model():
    return PagesOnly()


@pytest.fixture
def batch(model):
    made = Batch(model, slots=8)
    yield made
    model.wait.set()
    made.close()


def asked(batch, task, unwanted=lambda: False):
    batch.enter(task)
    return list(task.listen(unwanted))


def greedily(ids, most):
    ids, found = list(ids), []
    while len(found) < most:
        token = int(logits_after(ids).argmax())
        found.append(token)
        if token == END:
            break
        ids.append(token)
    return found


def scored(ids, answer):
    return math.fsum(logprobs_after([*ids, *answer[:n]])[token] for n, token in enumerate(answer))


def test_it_writes_what_the_model_says_one_token_after_the_other(batch):
    ids = [1, 2, 3, 4, 5, 6]
    found = asked(batch, Writing(ids, 20, frozenset({END}), logprobs=3))
    assert [one.token for one in found] == greedily(ids, 20)
    for n, one in enumerate(found):
        told = logprobs_after([*ids, *(before.token for before in found[:n])])
        assert one.logprob == pytest.approx(told[one.token], abs=1e-5)
        best = np.argsort(-told)[:3]
        assert [token for token, _ in one.top] == best.tolist()
        assert [p for _, p in one.top] == pytest.approx(told[best].tolist(), abs=1e-5)


def test_any_seed_is_taken(batch):
    for seed in (-1, -(2**63), 2**63 - 1, 0):
        first, again = (
            [one.token for one in asked(batch, Writing([1, 2], 8, frozenset(), temperature=1.0, seed=seed))]
            for _ in range(2)
        )
        assert first == again


@pytest.mark.parametrize("length", [3, 4, 5, 8, 11])
def test_answers_are_scored_as_one_after_the_other_wherever_a_page_ends(batch, length):
    ids = list(range(1, length + 1))
    answers = [[7], [7, 8, END], [9, 9, 9, 9, 9, 9, 9], [2, END]] + [[n, n + 1, END] for n in range(20)]
    [found] = asked(batch, Scoring(ids, answers))
    assert found == pytest.approx([scored(ids, one) for one in answers], abs=1e-4)


def test_labels_of_one_token_need_no_second_pass(batch, model):
    [found] = asked(batch, Scoring([1, 2, 3], [[4], [5]]))
    assert found == pytest.approx(logprobs_after([1, 2, 3])[[4, 5]].tolist(), abs=1e-5)
    assert model.passes == [[3]]


def test_many_at_once_get_what_each_gets_alone_while_pages_are_scarce():
    model = PagesOnly(pages=14)
    batch = Batch(model, slots=8)
    draw = random.Random(5)
    common = [draw.randrange(30) for _ in range(9)]
    prompts = [
        common[: draw.randrange(10)] + [draw.randrange(30) for _ in range(draw.randrange(1, 9))]
        for _ in range(60)
    ]
    wrong: list[object] = []

    def one(n: int) -> None:
        if n % 3:
            found = [said.token for said in asked(batch, Writing(prompts[n], 12, frozenset({END})))]
            if found != greedily(prompts[n], 12):
                wrong.append((n, found))
        else:
            answers = [[n % 30, 3, END], [4, END], [5, 6, 7, END]]
            [told] = asked(batch, Scoring(prompts[n], answers))
            if told != pytest.approx([scored(prompts[n], each) for each in answers], abs=1e-4):
                wrong.append((n, told))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(prompts))]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    batch.close()
    assert wrong == []
    assert batch._pages.room == model.pages  # all given back
    assert max(map(len, model.passes)) > 2  # and they did share passes


def test_a_beginning_that_was_read_is_not_read_again(batch, model):
    ids = list(range(1, 11))
    first = asked(batch, Writing(ids, 6, frozenset()))
    model.passes.clear()
    again = asked(batch, Writing(ids, 6, frozenset()))
    assert [one.token for one in again] == [one.token for one in first]
    assert model.passes[0] == [2]  # two full pages were there
    model.passes.clear()
    longer = [*ids, *(one.token for one in first[:5]), 7]
    assert [one.token for one in asked(batch, Writing(longer, 3, frozenset()))] == greedily(longer, 3)
    assert model.passes[0] == [4]  # of the answer, too, what filled a page
    model.passes.clear()
    other = [2, *ids[1:]]
    assert [one.token for one in asked(batch, Writing(other, 3, frozenset()))] == greedily(other, 3)
    assert model.passes[0] == [10]


def test_a_beginning_that_another_tenant_asked_is_read_again(batch, model):
    ids = list(range(1, 11))

    def read(task):
        model.passes.clear()
        asked(batch, task)
        return model.passes[0]

    assert read(Writing(ids, 1, frozenset(), cache_salt="a")) == [10]
    assert read(Writing(ids, 1, frozenset(), cache_salt="a")) == [2]
    assert read(Writing(ids, 1, frozenset(), cache_salt="b")) == [10]
    assert read(Writing(ids, 1, frozenset())) == [10]
    assert read(Writing(ids, 1, frozenset(), cache_salt="b")) == [2]
    assert read(Scoring(ids, [[3], [4]], cache_salt="c")) == [10]
    assert read(Scoring(ids, [[3], [4]], cache_salt="c")) == [2]


def test_a_long_prompt_is_read_between_the_tokens_of_others():
    model = PagesOnly(page=16, pages=300)
    batch = Batch(model, slots=2)
    short = Writing([1, 2], 40, frozenset())
    model.wait.clear()
    batch.enter(short)
    long = [n % 29 for n in range(3 * AT_ONCE)]
    batch.enter(task := Writing(long, 2, frozenset()))
    model.wait.set()
    assert [one.token for one in task.listen(lambda: False)] == greedily(long, 2)
    assert [one.token for one in short.listen(lambda: False)] == greedily([1, 2], 40)
    both = [one for one in model.passes if len(one) == 2]
    assert len(both) >= 3 and all(sum(one) <= AT_ONCE + 1 for one in model.passes)
    batch.close()


def test_they_begin_in_the_order_in_which_they_came():
    model = PagesOnly(pages=10)
    batch = Batch(model, slots=8)
    model.wait.clear()
    tasks = [Writing(ids, most, frozenset()) for ids, most in (([1] * 20, 8), ([2] * 30, 8), ([3], 1))]
    for task in tasks:
        batch.enter(task)
    model.wait.set()
    for task in tasks:
        list(task.listen(lambda: False))
    # the last would have had room beside the first, and waited behind the one before it, or that would wait for ever
    assert model.passes == [[20], *[[1]] * 7, [30], *[[1]] * 7, [1]]
    batch.close()


def test_hanging_up_gives_the_pages_back(batch, model):
    model.wait.clear()
    task = Writing([1, 2, 3], 200, frozenset())
    batch.enter(task)
    until = time.monotonic() + 10
    while batch._pages.room == model.pages and time.monotonic() < until:
        time.sleep(0.01)
    assert batch._pages.room == model.pages - 51  # for the longest that it may become
    model.wait.set()
    said = task.listen(lambda: False)
    next(said)
    said.close()
    until = time.monotonic() + 10
    asked(batch, Writing([5], 1, frozenset()))
    while batch._pages.room < model.pages and time.monotonic() < until:
        asked(batch, Writing([5], 1, frozenset()))
    assert batch._pages.room == model.pages


def test_what_nobody_wants_any_more_is_never_read():
    model = PagesOnly()
    batch = Batch(model, slots=1)
    model.wait.clear()
    tasks = [Writing(ids, 3, frozenset()) for ids in ([1, 2], [3, 4, 5, 6], [7, 8, 9])]
    for task in tasks:
        batch.enter(task)
    with pytest.raises(Cancelled):
        list(tasks[1].listen(lambda: True))
    model.wait.set()
    assert [len(list(tasks[n].listen(lambda: False))) for n in (0, 2)] == [3, 3]
    assert model.passes == [[2], [1], [1], [3], [1], [1]]
    assert not batch._line
    batch.close()


def test_one_who_leaves_the_line_leaves_it_behind_a_head_that_waits():
    passes = threading.Semaphore(0)

    class OneByOne(PagesOnly):
        def step(self, parts):
            passes.acquire()
            return super().step(parts)

    batch = Batch(OneByOne(pages=10), slots=8)
    first, large, third = (Writing([n] * long, 8, frozenset()) for n, long in ((1, 20), (2, 30), (3, 1)))
    for task in (first, large, third):
        batch.enter(task)
    third.unwanted = True
    said = first.listen(lambda: False)
    for _ in range(2):
        passes.release()
        next(said)
    assert list(batch._line) == [large]
    passes.release(100)
    assert len(list(said)) == 6 and len(list(large.listen(lambda: False))) == 8
    batch.close()


def test_labels_longer_than_a_pass_are_read_beside_others():
    model = PagesOnly(page=16, pages=400)
    batch = Batch(model, slots=2)
    beside = Writing([1, 2], 60, frozenset())
    model.wait.clear()
    batch.enter(beside)
    answers = [[n % 29 for n in range(AT_ONCE + 90)], [4, 5, END], [6]]
    batch.enter(task := Scoring([7, 8, 9], answers))
    model.wait.set()
    [found] = task.listen(lambda: False)
    assert found == pytest.approx([scored([7, 8, 9], one) for one in answers], abs=1e-2)
    assert [one.token for one in beside.listen(lambda: False)] == greedily([1, 2], 60)
    assert all(sum(one) <= AT_ONCE + 2 for one in model.passes)
    batch.close()


def test_a_pass_that_fails_loses_those_under_way_and_the_next_is_served(batch, model):
    model.fail = True
    with pytest.raises(Unavailable, match="out of memory"):
        asked(batch, Writing([1, 2, 3], 4, frozenset()))
    assert [one.token for one in asked(batch, Writing([1, 2, 3], 4, frozenset()))] == greedily([1, 2, 3], 4)
    assert batch._pages.room == model.pages


def test_a_fault_of_ours_leaves_nobody_waiting(batch, model, monkeypatch):
    monkeypatch.setattr(batch, "_together", lambda: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with pytest.raises(Unavailable, match="closed"):
        asked(batch, Writing([1, 2, 3], 4, frozenset()))
    assert not batch.alive


def test_a_fault_of_one_answer_is_its_own(batch):
    class Faulty(Writing):
        def hear(self, lane, logits, model):
            raise ValueError("too large a grammar")

    with pytest.raises(ValueError, match="too large"):
        asked(batch, Faulty([1], 4, frozenset()))
    assert asked(batch, Writing([1], 1, frozenset()))


def test_closing_ends_what_is_under_way_and_what_waits():
    model = PagesOnly()
    batch = Batch(model, slots=1)
    model.wait.clear()
    tasks = [Writing([1, 2], 1000 // model.page, frozenset()), Writing([3], 2, frozenset())]
    for task in tasks:
        batch.enter(task)
    closing = threading.Thread(target=batch.close)
    closing.start()
    model.wait.set()
    for task in tasks:
        with pytest.raises(Unavailable):
            list(task.listen(lambda: False))
    closing.join(10)
    assert not batch.alive
    with pytest.raises(Unavailable):
        batch.enter(Writing([1], 1, frozenset()))


def test_pages_that_are_written_over_are_not_known_any_more():
    pages = Pages(2, 3)
    mine = pages.take(3)
    pages.keep([1, 2, 3, 4, 5, 6], mine)
    pages.give(mine)
    assert pages.room == 3
    assert pages.known([1, 2, 3, 4, 5]) == mine[:2]
    other = pages.take(1)  # the one that nobody uses: the last
    assert other == mine[2:]
    pages.give(mine[:2])
    assert pages.take(1) == mine[1:2]  # later ones first
    assert pages.known([1, 2, 3, 4, 5]) == mine[:1]
    assert pages.take(1) is None


def test_draws_follow_the_shares_and_the_nucleus():
    draw = np.random.default_rng(3)
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    found = np.bincount([chosen(logits, 1.0, 1.0, draw) for _ in range(8000)], minlength=4) / 8000
    assert found == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.02)
    kept = {chosen(logits, 1.0, 0.75, draw) for _ in range(500)}
    assert kept == {0, 1}
    sharp = np.bincount([chosen(logits, 0.5, 1.0, draw) for _ in range(8000)], minlength=4) / 8000
    wanted = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    assert sharp == pytest.approx(wanted / wanted.sum(), abs=0.02)
    for tiny in (1e-308, 1e-6):
        assert chosen(logits, tiny, 1.0, draw) == 0
    barred = np.where([False, False, True, True], logits, -np.inf).astype(np.float32)
    assert {chosen(barred, 5.0, 1.0, draw) for _ in range(200)} == {2, 3}
