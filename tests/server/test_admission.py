"""Who goes in next, who waits, who is turned away: decided by key, in turns."""

from __future__ import annotations

import asyncio

import pytest

from luthier.server.admission import Admission
from luthier.server.errors import ApiError


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 5))


class Crowd:
    """Requests that hold their slot until they are told to go."""

    def __init__(self, admission):
        self.admission = admission
        self.order = []
        self.turned_away = []
        self.tasks = []
        self.doors = []

    async def come(self, who, count=1):
        for n in range(count):
            self.tasks.append(asyncio.ensure_future(self._one(f"{who}{n}", who)))
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _one(self, name, who):
        try:
            async with self.admission.slot(who):
                self.order.append(name)
                leave = asyncio.Event()
                self.doors.append(leave)
                await leave.wait()
        except ApiError as error:
            self.turned_away.append((name, error.code, error.headers["retry-after"]))

    async def serve_all(self):
        while self.doors:
            self.doors.pop(0).set()
            for _ in range(3):
                await asyncio.sleep(0)
        await asyncio.gather(*self.tasks, return_exceptions=True)


def test_keys_take_turns():
    async def scenario():
        crowd = Crowd(Admission(1, 20))
        await crowd.come("a", 5)
        await crowd.come("b", 2)
        await crowd.come("c", 1)
        await crowd.serve_all()
        return crowd

    crowd = run(scenario())
    # a0 is in at once; then a, b and c take turns until b and c have no more
    assert crowd.order == ["a0", "a1", "b0", "c0", "a2", "b1", "a3", "a4"]
    assert crowd.admission.inside == 0


def test_a_flood_fills_only_what_others_leave_free():
    async def scenario():
        crowd = Crowd(Admission(1, 4))
        await crowd.come("a", 7)  # one inside, four wait, two are turned away
        assert [name for name, *_ in crowd.turned_away] == ["a5", "a6"]
        await crowd.come("b", 3)  # takes the newest places of a until both have two
        await crowd.serve_all()
        return crowd

    crowd = run(scenario())
    assert crowd.order == ["a0", "a1", "b0", "a2", "b1"]
    assert {name for name, *_ in crowd.turned_away} == {"a5", "a6", "a4", "a3", "b2"}
    assert {code for _, code, _ in crowd.turned_away} == {"queue_full"}


def test_who_leaves_the_queue_leaves_it_at_once_and_loses_no_slot():
    async def scenario():
        admission = Admission(1, 4)
        crowd = Crowd(admission)
        await crowd.come("a", 2)
        await crowd.come("b", 1)
        crowd.tasks[1].cancel()
        await asyncio.sleep(0)
        assert (admission.active, admission.waiting) == (1, 1)
        # leaves in the very moment in which its turn comes
        crowd.doors.pop(0).set()
        await asyncio.sleep(0)
        crowd.tasks[2].cancel()
        for _ in range(4):
            await asyncio.sleep(0)
        assert admission.inside == 0
        await crowd.come("c", 1)
        await crowd.serve_all()
        return crowd

    assert run(scenario()).order[-1] == "c0"


@pytest.mark.parametrize("seed", range(20))
def test_no_slot_is_lost_or_made_up_whatever_happens(seed):
    import random

    draw = random.Random(seed)

    async def scenario():
        admission = Admission(2, 5)
        inside = most = 0

        async def one(who):
            nonlocal inside, most
            async with admission.slot(who):
                inside += 1
                most = max(most, inside)
                try:
                    for _ in range(draw.randrange(4)):
                        await asyncio.sleep(0)
                finally:
                    inside -= 1

        tasks = []
        for _ in range(200):
            tasks.append(asyncio.ensure_future(one(draw.choice("abc"))))
            if draw.random() < 0.3:
                draw.choice(tasks).cancel()
            if draw.random() < 0.5:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        return admission.inside, inside, most

    assert run(scenario()) == (0, 0, 2)


def test_without_room_to_wait():
    async def scenario():
        admission = Admission(1, 0)
        async with admission.slot("a"):
            with pytest.raises(ApiError) as caught:
                async with admission.slot("b"):
                    pass
        return caught.value

    assert run(scenario()).status == 429
