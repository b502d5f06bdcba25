"""Keys are remembered while nothing changes in the records, and no longer."""

from __future__ import annotations

import asyncio

import pytest

from luthier.core.errors import StoreError
from luthier.server.errors import ApiError
from luthier.server.platform.ring import LONGEST_S, REMEMBERED_S, Known, Ring


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def asked(site, first_key, clock):
    """What was looked up and how often the mark was read, and a way to ask."""
    seen = {"looks": 0, "marks": 0, "mark": "a"}

    def look(text, project):
        seen["looks"] += 1
        return site.check(text, project)

    def mark():
        seen["marks"] += 1
        if isinstance(seen["mark"], Exception):
            raise seen["mark"]
        return seen["mark"]

    known = Known(look, mark, clock)

    async def ask(times=1):
        return await asyncio.gather(*(known.check(first_key, None) for _ in range(times)))

    return seen, ask


def test_a_key_is_looked_up_once_while_the_trail_is_the_same(asked, clock):
    seen, ask = asked

    async def day():
        for _ in range(20):
            assert all(await ask(times=5))
            clock.now += 1.5 * REMEMBERED_S

    asyncio.run(day())
    assert seen["looks"] <= 5  # those that asked before the first was known
    assert 20 <= seen["marks"] <= 21


def test_it_is_looked_up_again_when_the_trail_has_grown_and_after_a_while_in_any_case(asked, clock):
    seen, ask = asked

    async def day():
        await ask()
        clock.now += 1.1 * REMEMBERED_S
        seen["mark"] = "b"
        await ask()
        assert seen["looks"] == 2
        clock.now += LONGEST_S
        await ask()
        assert seen["looks"] == 3

    asyncio.run(day())


def test_where_the_mark_cannot_be_read_nobody_is_let_in_on_what_was_remembered(asked, clock):
    seen, ask = asked

    async def day():
        await ask()
        clock.now += 1.1 * REMEMBERED_S
        seen["mark"] = StoreError("away")
        with pytest.raises(ApiError) as told:
            await ask()
        assert told.value.status == 503
        seen["mark"] = "a"
        clock.now += 1.1 * REMEMBERED_S
        assert all(await ask())

    asyncio.run(day())


@pytest.mark.parametrize("change", ["key", "grant", "user"])
def test_what_changes_a_keys_rights_is_known_within_two_seconds(site, first_key, change):
    clock, ring = Clock(), Ring(site)
    ring._known._clock = clock
    who = site.check(first_key)
    project = who.project
    user = site.accounts.create_user(who, "service", "viewer", scope=project, role="viewer")
    made = site.accounts.keys.create(who, scope=project, title="of a viewer", user=user.id)

    async def ask():
        found = await ring.check(made.text, None)
        return found is not None and "jobs.read" in found.permissions

    async def day():
        assert await ask()
        clock.now += 1.1 * REMEMBERED_S
        assert await ask()
        match change:
            case "key":
                site.accounts.keys.end(who, made.key.id)
            case "grant":
                site.accounts.end_grant(who, project, user.id, "viewer")
            case "user":
                site.accounts.end_user(who, user.id)
        clock.now += 2 * REMEMBERED_S
        assert not await ask()

    asyncio.run(day())
